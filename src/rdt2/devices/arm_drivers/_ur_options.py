"""What a robot's yaml says of a UR arm."""

from __future__ import annotations

from pydantic import Field

from rdt2.devices.arm_drivers._load import LoadedArmOptions


class UROptions(LoadedArmOptions):
    """A UR arm."""

    address: str = Field(description="Of the controller, such as 192.168.56.20.")
    speed_slider: float = Field(
        gt=0,
        le=1,
        description="Share to which the speed slider on the pendant is turned down: begin with 0.3, and raise it, here "
        "and on the pendant, when what you see is what you expect.",
    )
    rate: float = Field(
        default=125.0, ge=100, le=500, description="Poses a second that are told: 125 to 500 on an e-series."
    )
    lookahead_time: float = Field(
        default=0.1,
        ge=0.03,
        le=0.2,
        description="Seconds over which the controller smooths (servoL): less follows sooner, and shakes more.",
    )
    gain: float = Field(
        default=300.0,
        ge=100,
        le=2000,
        description="Of following (servoL): more follows closer, and shakes more.",
    )
    reset_degrees: tuple[float, ...] | None = Field(
        default=None,
        min_length=6,
        max_length=6,
        description="Joints to begin an episode from, for `rdt2 reset`.",
    )
