"""What an arm carries, as every driver of arms is told it."""

from __future__ import annotations

from pydantic import Field

from rdt2.devices.drivers import Options


class LoadedArmOptions(Options):
    """Options of an arm whose controller wants to know its load: nothing about it is guessed."""

    payload: float = Field(ge=0, le=5, description="kg on the flange: gripper, camera, cables.")
    payload_centre: tuple[float, float, float] = Field(
        description="Its centre of mass in the flange's frame, metres: [0, 0, 0.06] is 6 cm in front of the flange. "
        "A wrong one lets a guided arm sink, and collisions be felt late. Controllers measure it (payload wizard)."
    )
    payload_inertia: tuple[float, float, float] = Field(
        description="Diagonal of its inertia about that centre, kg m^2: [0, 0, 0] where nobody has measured it."
    )
