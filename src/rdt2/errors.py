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
