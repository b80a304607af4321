"""What a process runs for test_stopping.py: OUT STEPS SECONDS. A toy run whose steps take so long."""

from __future__ import annotations

import sys
import time

from toy import ToyStage, config

from rdt2.training.loop import fit
from rdt2.training.stopping import Stopped


class Slow(ToyStage):
    def __init__(self, seconds: float):
        super().__init__()

        def wait(*_: object) -> None:
            print("step", flush=True)
            time.sleep(seconds)

        self.module.register_forward_pre_hook(wait)


def main(out: str, steps: str, seconds: str) -> None:
    try:
        fit(
            Slow(float(seconds)), config(steps=int(steps), save_every=100, evaluate_every=0), out, resume=True
        )
    except Stopped as stop:
        print(stop, flush=True)
        sys.exit(stop.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
