"""Runs the examples in a folder of their own, and keeps the picture of each for their pages.

    python scripts/examples.py docs/images                          # a quarter of an hour, and the training's
    python scripts/examples.py docs/images --only 01_first_prediction new_arm

The one that trains takes a while (`--size full`); the one of the published weights needs them and a GPU, and runs when
it is named.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = [file.stem for file in sorted(EXAMPLES.glob("*.py")) if file.read_text("utf-8").startswith("# %%")]
PUBLISHED = "published_weights_on_one_gpu"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=[name for name in NAMES if name != PUBLISHED]
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            subprocess.run([sys.executable, str(EXAMPLES / f"{name}.py"), "--out", folder], check=True)
            with Image.open(Path(folder) / f"{name}.png") as picture:
                picture.convert("RGB").save(options.out / f"{name}.webp", quality=80)


if __name__ == "__main__":
    main()
