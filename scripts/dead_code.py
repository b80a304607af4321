"""Name what nothing calls: `python scripts/dead_code.py`. Exits with 1 when there is any.

vulture looks at everything but the tests: what only they call is dead as well.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).resolve().parents[1]
LOOKED_AT = ("src", "benchmarks", "examples", "scripts", "packages")
# Run by whoever decorates.
DECORATORS = ["@atexit.register", "@model_validator", "@field_validator", "@*.register_fake"]
ALIVE = {
    # For those who import the package: the vocabulary of poses and actions.
    "absolute_poses", "deployed_width", "from_delta", "to_delta",
    # Found by name in their modules, by rdt2.registry and Python itself.
    "ARM", "SCENERY", "TASK", "__getattr__",
    # Read by templates, and from settings and results as dictionaries.
    "finger_thickness", "median_ms", "p95_ms", "reset_degrees", "subtitle", "title_zh", "uri",
    "width_mse",
    # Of the published tokenizer's layout: a key of its config, two modules of its checkpoint.
    "codebook_cost", "grip_vqvae", "rot_vqvae",
    # Beside the ids of the other control tokens; a vocabulary without it is refused.
    "quad_start_id",
    # Called by torch, copy, http.server, logging, mkdocs and Ray Serve.
    "_save_to_state_dict", "reset_parameters", "memo", "do_GET", "do_HEAD", "log_message", "protocol_version",
    "disable_nagle_algorithm", "on_config", "check_health", "enqueue",
}  # fmt: skip
# Classes of LeRobot, vla-eval and openpi are overridden there: methods and fields are theirs to call.
OVERRIDING = ("packages/", "benchmarks/openpi_cell.py")


def alive(item) -> bool:
    """Whether something that vulture cannot see uses it."""
    where = item.filename.resolve().relative_to(ROOT)
    if item.name in ALIVE:
        return True
    if str(where).startswith(OVERRIDING):
        return item.typ in ("method", "property", "variable") or "tests" in where.parts
    # What is set on an object of another library (MuJoCo, ruckig, viser) is read there.
    line = (ROOT / where).read_text("utf-8").splitlines()[item.first_lineno - 1]
    return item.typ == "attribute" and not re.search(rf"\bself\.{item.name}\b", line)


def main() -> None:
    """Print a line for each dead name, as compilers do."""
    vulture = Vulture(ignore_decorators=DECORATORS)
    vulture.scavenge([str(ROOT / folder) for folder in LOOKED_AT])
    found = vulture.get_unused_code()
    dead = [item for item in found if not alive(item)]
    for item in dead:
        print(f"{item.filename}:{item.first_lineno}: unused {item.typ} {item.name!r}")
    if dead:
        sys.exit(f"{len(dead)} unused. Remove them, or say in scripts/dead_code.py who uses them.")
    if called := ALIVE - {item.name for item in found}:
        print(f"note: ALIVE names what is called by now, or gone: {', '.join(sorted(called))}. Take it out.")


if __name__ == "__main__":
    main()
