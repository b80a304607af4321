"""RDT2 as LeRobot drives and trains it.

Outside, everything is LeRobot's: pictures in 0..1, channels first; states and actions absolute. Inside, everything is
RDT2's: left | right pictures of 8 bits, and motion relative to where the arms were at the observation, T_rel =
inv(T_obs) @ T_step. Real-time chunking (`lerobot-rollout --inference.type=rtc`) hands over what is left of the chunk
before, absolute; seen from the new observation that is a promise (rdt2.action.Promise).
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from rdt2.action import ACTION_DIM, HORIZON, Promise, absolute_rows, relative_rows
from rdt2.errors import ActionError, CheckpointError, ConfigError
from rdt2.observation import Observation, wrist_picture
from rdt2.policy import FMPolicy, Policy, PolicySpec, load_policy
from rdt2.policy.base import model_pictures
from rdt2.policy.load import policy_parts

from .configuration_rdt2 import RDT2Config

EXPERT = "expert"
"""Folder of a saved policy that holds what was trained; every `rdt2` command takes it as an expert."""


class RDT2Policy(PreTrainedPolicy):
    """Any policy of rdt2; what holds an FM expert can be trained."""

    config_class = RDT2Config
    name = "rdt2"

    def __init__(self, config: RDT2Config, *, expert: Path | None = None, **_: Any) -> None:
        """
        Args:
            config: see there.
            expert: an expert that was trained here, in place of what `config.start` holds.
        """
        super().__init__(config)
        self.config: RDT2Config = config
        if config.input_features:
            config.validate_features()
        spec = PolicySpec.of(
            config.start,
            vlm=config.vlm,
            processor=config.processor,
            tokenizer=config.tokenizer,
            normalizer=config.normalizer,
            device=config.device,
            steps=config.steps,
        )
        self.trained: torch.nn.Module | None = None
        if "://" in config.start or policy_parts(spec).kind != "fm":
            self.rdt2: Policy = load_policy(spec)
        else:
            self.trained, self.rdt2 = _trainable(config, spec, expert)
        self.reset()

    # ------------------------------------------------------------------------------------------------- predicting

    def reset(self) -> None:
        """Forget what was to be driven."""
        self._waiting: deque[Tensor] = deque()

    def supports_rtc(self) -> bool:
        return self.rdt2.keeps_promises

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Any],
        *,
        inference_delay: int = 0,
        prev_chunk_left_over: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Where the arms are to be in the next steps, float32 (b, 24 - late_rows, 20), absolute, as the state.

        Args:
            batch: both cameras' pictures (b, 3, h, w) in 0..1, the state (b, 20) and "task", a sentence a row.
            inference_delay: rows of `prev_chunk_left_over` that are driven before this chunk can be.
            prev_chunk_left_over: (n, 20), what is left of the chunk before, absolute; rows of zeros are padding.

        Raises:
            ActionError: a chunk came out unusable. ObservationError: pictures, state or sentence are not RDT2's.
        """
        self.eval()
        states = batch[OBS_STATE].detach().cpu().float().numpy().reshape(-1, ACTION_DIM)
        promised = None
        if prev_chunk_left_over is not None:
            rows = prev_chunk_left_over.detach().cpu().float().numpy().reshape(-1, ACTION_DIM)
            promised = [self._promise(rows, state, inference_delay) for state in states]
        chunks = self.rdt2.predict(self._observations(batch, states), promised=promised)
        for chunk in chunks:
            chunk.require_valid()
        rows = absolute_rows(np.stack([chunk.values for chunk in chunks]), states)
        return torch.from_numpy(rows[:, self.config.late_rows :]).to(batch[OBS_STATE].device)

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **options: Any) -> Tensor:
        """The next step, (b, 20): of the chunk at hand, or of a new one when `n_action_steps` were driven."""
        if not self._waiting:
            chunk = self.predict_action_chunk(batch, **options)
            self._waiting.extend(chunk[:, : self.config.n_action_steps].unbind(1))
        return self._waiting.popleft()

    def _promise(self, left: np.ndarray, state: np.ndarray, delay: int) -> Promise | None:
        """What the arms will do anyway, seen from where they are; its first rows lie `late_rows` in the future."""
        known = int(np.argmax([*(~left.any(1)), True]))
        late = self.config.late_rows
        if known == 0:
            return None
        relative = relative_rows(left[: min(known, HORIZON - late)], state)
        here = relative_rows(state[None], state)
        # What is driven before a new row can take effect was told before: on the way from here to the first row left.
        share = np.arange(1, late + 1)[:, None] / (late + 1)
        rows = np.concatenate([here + share * (relative[:1] - here), relative])
        actions, count = np.zeros((HORIZON, ACTION_DIM), np.float32), len(rows)
        actions[:count] = rows
        return Promise(actions, fixed=min(late + delay, count), known=count)

    def _observations(self, batch: dict[str, Any], states: np.ndarray) -> list[Observation]:
        sides = [_pictures(batch, self.config.left_camera), _pictures(batch, self.config.right_camera)]
        task = batch.get("task", "")
        sentences = [task] * len(states) if isinstance(task, str) else list(task)
        return [
            Observation(left=left, right=right, instruction=sentence, state=state)
            for left, right, sentence, state in zip(*sides, sentences, states, strict=True)
        ]

    # --------------------------------------------------------------------------------------------------- training

    def get_optim_params(self) -> Any:
        return (parameter for parameter in self._expert_module().parameters() if parameter.requires_grad)

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """The flow-matching loss of chunks `action` (b, 24, 20), absolute; of the rest see `predict_action_chunk`."""
        module = self._expert_module()
        assert isinstance(self.rdt2, FMPolicy)
        states = batch[OBS_STATE].detach().cpu().float().numpy()
        rows = relative_rows(batch[ACTION].detach().cpu().float().numpy(), states)
        observations = self._observations(batch, states)
        prompt = self.rdt2.processor.prompt(
            model_pictures(observations), [each.instruction for each in observations]
        )
        inputs = {**prompt, "actions": self.rdt2.normalizer.normalize(torch.from_numpy(rows))}
        if self.rdt2.expert.config.reads_state:
            inputs["state"] = torch.from_numpy(states)
        loss, _ = module({name: value.to(self.rdt2.device) for name, value in inputs.items()}, None)
        return loss, {}

    def _expert_module(self) -> torch.nn.Module:
        if self.trained is None:
            raise ConfigError(
                f"{self.config.start} holds no FM expert, which is what can be trained here. Start from an RDT2-FM "
                "expert, or train this one with 'rdt2 train vq'."
            )
        return self.trained

    # ----------------------------------------------------------------------------------------------------- saving

    def _save_pretrained(self, save_directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """The configuration, and the expert with its normalizer, which every `rdt2` command takes."""
        if state_dict is not None:
            raise ConfigError(
                "weights that are split over processes cannot be saved here: train without FSDP, or with "
                "'rdt2 train expert --set shard=true'."
            )
        self.config._save_pretrained(save_directory)
        if self.trained is not None:
            assert isinstance(self.rdt2, FMPolicy)
            self.rdt2.expert.save_pretrained(save_directory / EXPERT)
            self.rdt2.normalizer.save_pretrained(save_directory / EXPERT)

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: RDT2Config | None = None, **options: Any
    ) -> RDT2Policy:
        """What was saved, from a folder or a repository of the hub.

        Raises:
            CheckpointError: it holds no expert, or a damaged one.
        """
        from rdt2.hub import locate

        name, revision = str(pretrained_name_or_path), options.get("revision")
        if config is None:
            config = RDT2Config.from_pretrained(name, revision=revision)
        place = name if revision is None else f"{name}@{revision}"
        folder = locate(place, ("*.json", f"{EXPERT}/*"), what="a policy of LeRobot")
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} holds no config.json, expected a policy that LeRobot saved.")
        expert = folder / EXPERT
        policy = cls(config, expert=expert if expert.is_dir() else None)
        return policy.eval()


def _trainable(config: RDT2Config, spec: PolicySpec, own: Path | None) -> tuple[torch.nn.Module, FMPolicy]:
    """The expert with its loss, float32, and the policy that predicts with the same expert and VLM."""
    from rdt2.expert import Expert
    from rdt2.matching import resolve
    from rdt2.policy.place import checked_device, checked_dtype
    from rdt2.training.config import ExpertTraining
    from rdt2.training.expert import ExpertModule, FrozenVLM
    from rdt2.vlm import VLMProcessor, load_vlm

    parts = policy_parts(spec)
    place = parts["expert"] if own is None else str(own)
    device = checked_device(spec.device)
    dtype = checked_dtype(None, device)
    normalizer = resolve(parts["normalizer"], models={"the expert": place}).normalizer
    expert = Expert.from_pretrained(place, device=device)
    layers = expert.config.selected_layers
    vlm = load_vlm(parts["vlm"], layers=max(layers) + 1, dtype=dtype, device=device)
    frozen = FrozenVLM(vlm, layers, precision="fp32" if dtype == torch.float32 else "bf16")
    policy = FMPolicy(
        vlm=vlm,
        processor=VLMProcessor.beside(parts["vlm"], given=parts.parts.get("processor")),
        expert=expert,
        normalizer=normalizer,
        steps=spec.steps,
        draws=parts.settings.get("draws", 1),
        patience=parts.settings.get("patience"),
    )
    return ExpertModule(expert, frozen, ExpertTraining(draws=config.draws)), policy


def _pictures(batch: dict[str, Any], key: str) -> list[np.ndarray]:
    """The pictures (b, 3, h, w) in 0..1 of one camera, as RDT2 sees them.

    Raises:
        ActionError: they are not there, or of another form.
    """
    if key not in batch:
        raise ActionError(f"the batch has no pictures {key}, found {', '.join(sorted(map(str, batch)))}.")
    given = batch[key].detach().cpu()
    if given.ndim != 4 or given.shape[1] != 3 or not given.is_floating_point():
        raise ActionError(f"{key} is {given.dtype} {tuple(given.shape)}, expected (b, 3, h, w) in 0..1.")
    pictures = (given.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [wrist_picture(each) for each in pictures]
