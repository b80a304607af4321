"""What one may set of the simulated cell: `--robot.type=rdt2sim --robot.task=pick`."""

from dataclasses import dataclass

from lerobot.robots.config import RobotConfig


@RobotConfig.register_subclass("rdt2sim")
@dataclass(kw_only=True)
class RDT2SimConfig(RobotConfig):
    """Which cell, and what stands on its table."""

    arms: str = "ur5e"
    """ur5e, fr3, handheld, or the yaml of a robot of kind cell."""
    task: str = "pick"
    """A name of `rdt2.sim.tasks.TASKS`."""
    scene_seed: int = 0
    """Which scene; those of training begin at 1,000,000,000."""
    scenery: str = "seen"
    """What textures, light and table height are drawn from."""
