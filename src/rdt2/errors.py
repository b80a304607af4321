"""The errors of this package.

Every message says what was expected, what came, where, and what to do next.
"""

from __future__ import annotations


class RDT2Error(ValueError):
    """Base of all errors raised on purpose by this package."""


class PoseError(RDT2Error):
    """A pose, rotation or transform of the wrong shape, or with values that are no pose."""


class ActionError(RDT2Error):
    """An action chunk or its tokens that cannot be used."""


class ObservationError(RDT2Error):
    """Pictures, instruction or state that the models do not take."""


class NormalizerError(RDT2Error):
    """A normalizer file that cannot be trusted or does not fit."""


class CheckpointError(RDT2Error):
    """A checkpoint that is incomplete, of another model, or of another shape."""


class ShardError(RDT2Error):
    """A training shard that is damaged or not in the published layout."""


class ConfigError(RDT2Error):
    """A configuration with unknown, missing or contradictory settings."""


class TaskError(RDT2Error):
    """A simulated task or scene that does not exist or cannot be built."""


class SimulationError(RDT2Error):
    """A simulation that became unstable: what it shows from then on means nothing."""


class SafetyError(RDT2Error):
    """A command that must not reach a robot."""


class LateError(SafetyError):
    """A command whose time was past when it came: it is not driven, and a later one may be."""


class RobotError(RDT2Error):
    """A device that does not answer, refuses to be used, or has a fault."""


class RecordingError(RDT2Error):
    """A recording that could not be written whole."""


class TrainingError(RDT2Error):
    """A training run that cannot go on."""


class WireError(RDT2Error):
    """A message that is not of the protocol, or larger than is taken."""


class ServingError(RDT2Error):
    """A policy server that cannot be reached, has failed, or refuses a request.

    `reason` is a word for programs: "unreachable", "late" (it cannot answer before the deadline), "busy" (its queue is
    full), "stopping", "failed". `queue_seconds` is how long a request would wait there now, where it said so.
    """

    def __init__(self, message: str, *, reason: str = "failed", queue_seconds: float | None = None) -> None:
        super().__init__(message)
        self.reason, self.queue_seconds = reason, queue_seconds


class CalibrationError(RDT2Error):
    """A motion that determines nothing, or recordings that do not belong together."""
