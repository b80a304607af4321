"""What an arm carries, as every driver of arms is told it, and what its controller says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from rdt2.devices.drivers import Options
from rdt2.robot.protocols import Check

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray


class LoadedArmOptions(Options):
    """Options of an arm whose controller wants to know its load: nothing about it is guessed."""

    payload: float = Field(ge=0, le=35, description="kg on the flange: gripper, camera, cables.")
    payload_centre: tuple[float, float, float] = Field(
        description="Its centre of mass in the flange's frame, metres: [0, 0, 0.06] is 6 cm in front of the flange. "
        "A wrong one lets a guided arm sink, and collisions be felt late. Controllers measure it (payload wizard)."
    )
    payload_inertia: tuple[float, float, float] = Field(
        description="Diagonal of its inertia about that centre, kg m^2: [0, 0, 0] where nobody has measured it."
    )

    def load_checks(
        self, mass: float, centre: Float[ndarray, " 3"], inertia: Float[ndarray, "3 3"]
    ) -> list[Check]:
        """What the controller says of its load (kg, metres of the flange's frame, kg m^2) beside what the yaml says."""
        moments = np.round(np.diag(inertia), 6).tolist()
        return [
            Check("payload", f"{self.payload:g} kg", f"{mass:.3g} kg", abs(mass - self.payload) < 1e-3),
            Check(
                "payload's centre", millimetres(self.payload_centre), millimetres(centre),
                bool(np.abs(centre - np.array(self.payload_centre)).max() < 1e-3),
            ),
            Check(
                "payload's inertia", f"{list(self.payload_inertia)} kg m^2", f"{moments} kg m^2",
                bool(np.abs(inertia - np.diag(self.payload_inertia)).max() < 1e-5),
            ),
        ]  # fmt: skip


def millimetres(point: Any) -> str:
    """A point in metres, for a person."""
    return f"{np.round(1e3 * np.asarray(point), 1).tolist()} mm"
