"""What a robot's yaml says of a Franka Research 3."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from rdt2.devices.arm_drivers._load import LoadedArmOptions

TORQUE_STEP = 2.5
"""N m by which franky may ask for more or less torque than the robot was commanded a millisecond ago. libfranka's
low-pass filter of 100 Hz leaves 0.39 of such a step (`lowpass_filter.h`), so that the torque changes by 0.97 N m/ms:
the robot allows 1 (`kMaxTorqueRate`). With franky's own 1 N m it lags so far behind quick motions that the arm begins
to swing."""


class FrankyOptions(LoadedArmOptions):
    """A Franka Research 3."""

    address: str = Field(description="Of the arm's control box (FCI), such as 172.16.0.2.")
    payload: float = Field(
        ge=0,
        le=5,
        description="kg on the flange beyond the hand that is set in Desk: gripper, camera, cables.",
    )
    torque_threshold: float = Field(
        default=20.0,
        gt=0,
        le=87,
        description="N m at any joint beyond which the robot takes it for a collision.",
    )
    force_threshold: float = Field(
        default=30.0, gt=0, le=150, description="N (and N m) at the hand beyond which it does."
    )
    stiffness: tuple[float, ...] = Field(
        default=(600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0), min_length=7, max_length=7,
        description="Of the joint impedance, N m/rad each: stiffer follows better and pushes harder.",
    )  # fmt: skip
    realtime: bool = Field(
        default=True,
        description="Insist on a real-time kernel. false: try without one; the robot stops where packets come late.",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_port(cls, values: Any) -> Any:
        if isinstance(values, dict) and "port" in values:
            raise ValueError(
                "address and port are those of the server that the published configuration was made for; franky speaks "
                "to the arm's control box itself: leave port out and give the address of its FCI, such as 172.16.0.2, "
                "or type: remote where the arm hangs on another machine that runs `rdt2 robot serve`"
            )
        return values
