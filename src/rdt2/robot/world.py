"""What a cell's world really is: the delays, noise and errors that real cameras, arms and calibrations have.

Everything is off by default: a picture shows this very moment, a command moves at once, what is measured is true. That
is the cell in which training data are recorded. The robots that evaluations drive have values like real devices, in the
section `cell:` of `configs/robots/cell_*.yaml`. The loop is not told what is said here: it knows of its devices what
their own settings claim, and where the two differ, that must show.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CameraWorld(BaseModel):
    """Both wrist cameras."""

    model_config = _STRICT

    rate: float = Field(default=0.0, ge=0, le=500, description="Pictures a second. 0: one whenever asked.")
    delay: float = Field(
        default=0.0, ge=0, le=1, description="Seconds from an exposure until its picture can be read."
    )
    skew: float = Field(
        default=0.0, ge=0, le=0.1, description="Seconds by which the left camera exposes after the right one."
    )
    stamp_error: float = Field(
        default=0.0,
        ge=0,
        le=0.1,
        description="Seconds that a camera's clock is off at most: each stamp of a run is off by the same.",
    )
    noise: float = Field(
        default=0.0, ge=0, le=64, description="Standard deviation of every pixel, of 255 (gaussian)."
    )
    fisheye: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="A lens that draws the middle by so much larger (0.2: 20 %) while the corners stay.",
    )


class ArmWorld(BaseModel):
    """Both arms."""

    model_config = _STRICT

    latency: float = Field(
        default=0.0, ge=0, le=0.5, description="Seconds from a command to the motion it asks for."
    )
    position_noise: float = Field(
        default=0.0, ge=0, le=0.02, description="Standard deviation of each measured coordinate, metres."
    )
    turn_noise: float = Field(
        default=0.0, ge=0, le=5, description="Standard deviation of a measured pose about each axis, degrees."
    )
    joint_noise: float = Field(
        default=0.0, ge=0, le=5, description="Standard deviation of each measured joint, degrees."
    )
    tool_shift: float = Field(
        default=0.0,
        ge=0,
        le=0.2,
        description="Metres that the TCP is off from where policy_to_tcp was measured: a calibration that is wrong.",
    )
    tool_turn: float = Field(
        default=0.0, ge=0, le=90, description="Degrees that the TCP is turned from where it was measured."
    )
    payload_error: float = Field(
        default=0.0, ge=-0.5, le=2, description="kg that the tool weighs more than the arm was told."
    )


class GripperWorld(BaseModel):
    """Both grippers."""

    model_config = _STRICT

    latency: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="Seconds until a command is heard; the fingers' servos trail by 12 ms more.",
    )
    width_noise: float = Field(
        default=0.0, ge=0, le=0.01, description="Standard deviation of the measured opening, metres."
    )


class CellSettings(BaseModel):
    """The section `cell:` of a robot's yaml."""

    model_config = _STRICT

    cameras: CameraWorld = Field(default=CameraWorld(), description="What is true of the cameras.")
    arms: ArmWorld = Field(default=ArmWorld(), description="What is true of the arms.")
    grippers: GripperWorld = Field(default=GripperWorld(), description="What is true of the grippers.")
