"""RDT2's simulated cell as a LeRobot robot: LeRobot imports this by its name and knows `--robot.type=rdt2sim`."""

from .config_rdt2sim import RDT2SimConfig
from .rdt2sim import RDT2Sim

__all__ = ["RDT2Sim", "RDT2SimConfig"]
