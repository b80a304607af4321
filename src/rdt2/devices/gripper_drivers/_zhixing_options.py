"""What a robot's yaml says of a Zhixing gripper."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from rdt2.devices.drivers import Options


class ZhixingOptions(Options):
    """Where it is, and how it is set up."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    serial: str = Field(
        default="",
        description="Its serial number, by which it is found; `rdt2 device list --find` shows those connected.",
    )
    port: str = Field(
        default="",
        description="The serial port, /dev/ttyUSB0; left out, all USB adapters are asked for the gripper.",
    )
    slave: int = Field(default=1, ge=1, le=247, description="Its number on the bus.")
    force: int = Field(default=30, ge=1, le=100, description="Closing force, percent of its largest.")
    open_width: float = Field(
        default=0.12,
        gt=0,
        le=0.3,
        description="Opening at position 0, metres: measured with your fingers on it.",
    )
    closed_width: float = Field(
        default=0.0, ge=-0.1, le=0.2,
        description="Opening at position 12000, metres; negative where the fingers meet before.",
    )  # fmt: skip
    finger_thickness: float = Field(
        default=0.023, ge=0, le=0.2,
        description="Metres; published files say it of the fingers across their opening. It changes no width: the "
        "shape that is kept clear is that of gripper.model.",
    )  # fmt: skip
    answer: float = Field(
        default=0.05,
        gt=0.005,
        le=1,
        description="Seconds within which an answer comes; two missing are a fault.",
    )
    observation_latency: float | None = Field(
        default=None, ge=0, le=0.5,
        description="Seconds before its answer that a position was true; left out, half of what the answer took.",
    )  # fmt: skip
