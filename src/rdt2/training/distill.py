"""Training UltraFast: a student of the expert reaches in one step what its frozen teacher reaches in several."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rdt2.errors import ConfigError
from rdt2.expert import Conditioning, Expert, distillation_loss, several_steps
from rdt2.training.config import DistillTraining
from rdt2.training.expert import ExpertModule, ExpertStage, Frozen, FrozenVLM, require_same_state
from rdt2.training.loop import reading_device
from rdt2.vlm.mark import require_learnt_on

if TYPE_CHECKING:
    from jaxtyping import Float


class DistillStage(ExpertStage):
    """As for the expert; what is saved says ``steps: 1``, so that a policy takes one step unasked."""

    name = "distill"
    start_stays = True

    def build(self) -> DistillModule:
        """A student that begins as its teacher, the teacher, and the frozen VLM of both.

        Raises:
            ConfigError: the teacher takes one step, learnt on another VLM, or does not see what the student is to see.
        """
        config = self.config
        assert isinstance(config, DistillTraining)
        teacher = Expert.from_pretrained(config.start_from, device=reading_device(config))
        require_same_state(teacher, config)
        require_learnt_on(config.start_from, config.vlm)
        if config.state and not teacher.config.reads_state:
            raise ConfigError(f"{config.start_from} was trained without the arms' state: set state=false.")
        steps = teacher.config.steps if config.teacher_steps is None else config.teacher_steps
        if steps < 2:
            raise ConfigError(
                f"{config.start_from}: the teacher takes {steps} step, expected more than the student's one. "
                "Name the expert it was distilled from, or set teacher_steps."
            )
        student = copy.deepcopy(teacher).train()
        student.config = dataclasses.replace(teacher.config, steps=1, prefix=0)
        return DistillModule(
            student, Frozen(teacher, precision=config.precision), steps, self.frozen_vlm(teacher), config
        )


class DistillModule(ExpertModule):
    """The student with its loss: from the same noise, its one step against the teacher's several."""

    def __init__(
        self, student: Expert, teacher: Frozen, teacher_steps: int, vlm: FrozenVLM, config: DistillTraining
    ):
        super().__init__(student, vlm, config)
        self._teacher, self.teacher_steps = teacher, teacher_steps

    def forward(
        self, batch: dict[str, Tensor], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Loss of a batch (normalized chunks (b, 24, 20) with what the VLM sees), a scalar, and nothing more to log."""
        noise = self.noise(batch["actions"], generator)
        cond = self.condition(batch)
        teacher = self._teacher.on(noise.device)
        state = batch.get("state")
        state = None if state is None else state.repeat(self.draws, 1)
        return distillation_loss(
            self.expert, teacher, cond, noise=noise, state=state, steps=self.teacher_steps
        ), {}

    def samples(
        self, cond: Conditioning, noise: Float[Tensor, "b 24 20"], state: Float[Tensor, "b 20"] | None
    ) -> dict[str, Float[Tensor, "b 24 20"]]:
        """The student's chunks, and the teacher's from the same noise to compare them with."""
        teacher = self._teacher.on(noise.device)
        return {
            "": self.expert.sample(cond, noise=noise, state=state),
            "teacher/": several_steps(teacher, cond, noise=noise, state=state, steps=self.teacher_steps),
        }
