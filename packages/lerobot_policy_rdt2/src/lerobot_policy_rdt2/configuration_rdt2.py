"""What one may set of RDT2 in LeRobot: `--policy.type=rdt2 --policy.start=...`."""

from __future__ import annotations

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig
from lerobot.optim import AdamWConfig
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.utils.constants import ACTION, OBS_STATE

from rdt2.action import ACTION_DIM, HORIZON
from rdt2.errors import ConfigError

LAYOUT = (
    "right arm, then left arm; each position (m), the first two COLUMNS of the rotation, opening (m); absolute. "
    "'rdt2 data to-lerobot' writes such data sets of other recordings"
)


@PreTrainedConfig.register_subclass("rdt2")
@dataclass
class RDT2Config(PreTrainedConfig):
    """RDT2 in LeRobot. Only the expert learns; the VLM stays as it is, and is named, not saved with the policy."""

    start: str = "robotics-diffusion-transformer/RDT2-FM"
    """What to begin with, as rdt2.policy.load_policy takes it: a folder, a hub id, demo-fm, or ws://host:8000 for a
    policy that a server holds. Only what holds an FM expert can be trained."""
    vlm: str | None = None
    """The vision-language model, where `start` is an expert alone."""
    processor: str | None = None
    """Text and picture processing; none takes what lies beside the VLM."""
    tokenizer: str | None = None
    """The action tokenizer, where `start` is an RDT2-VQ model alone."""
    normalizer: str | None = None
    """The normalizer, where `start` brings none."""
    steps: int | None = None
    """Euler steps; none takes the checkpoint's own."""
    draws: int = 1
    """Noise draws that share one prefill of the VLM while training."""
    left_camera: str = "observation.images.left_wrist"
    """The left wrist's pictures."""
    right_camera: str = "observation.images.right_wrist"
    """The right wrist's pictures."""
    n_action_steps: int = 8
    """Rows of a chunk that are driven before the next one is predicted (not with real-time chunking)."""
    late_rows: int = 0
    """Leading rows of a chunk that are left out, because their time is over when the arms can act on them: latency of
    camera and arm, times 30. 4 on the simulated cell."""
    learning_rate: float = 1e-4
    """Of AdamW."""
    rtc_config: RTCConfig | None = None
    """Set by lerobot-rollout --inference.type=rtc."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.late_rows < HORIZON or not 1 <= self.n_action_steps <= HORIZON - self.late_rows:
            raise ConfigError(
                f"n_action_steps is {self.n_action_steps} and late_rows {self.late_rows}, expected at least 1 and 0, "
                f"together at most {HORIZON}, the rows of a chunk."
            )

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        """Row 0 of a data set's action is where the arms are one step later: row 0 of a chunk."""
        return list(range(HORIZON))

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> AdamWConfig:
        """The published recipe, as `rdt2 train expert` has it."""
        return AdamWConfig(lr=self.learning_rate, weight_decay=0.01, grad_clip_norm=1.0)

    def get_scheduler_preset(self) -> None:
        return None

    def validate_features(self) -> None:
        """Raises ConfigError where a data set or robot lacks what RDT2 needs, or has it in another form."""
        given = {**(self.input_features or {}), **(self.output_features or {})}
        for name in (OBS_STATE, ACTION):
            shape = tuple(given[name].shape) if name in given else None
            if shape != (ACTION_DIM,):
                raise ConfigError(
                    f"{name} is {'missing' if shape is None else shape}, expected ({ACTION_DIM},): {LAYOUT}."
                )
        for name, option in ((self.left_camera, "left_camera"), (self.right_camera, "right_camera")):
            if name not in given:
                raise ConfigError(
                    f"there are no pictures {name}; found {', '.join(sorted(self.image_features))}. Name them with "
                    f"--policy.{option}=KEY, or rename them with --rename_map."
                )
