"""Training RDT2-FM: the flow-matching expert learns on the keys and values of the frozen VLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rdt2.data import TrainingData
from rdt2.data.dataset import Batch
from rdt2.expert import Expert, ExpertConfig, flow_matching_loss, sample_timesteps
from rdt2.metrics import action_errors
from rdt2.training.config import ExpertTraining
from rdt2.training.loop import Stage, mean_metrics, step_generator
from rdt2.training.normalizer import find_normalizer
from rdt2.vlm import VLMProcessor, load_vlm, prefill

EVALUATION_BATCH = 32


class ExpertStage(Stage):
    name = "expert"

    def __init__(self, config: ExpertTraining, data: Path, *, rank: int = 0, world_size: int = 1):
        self.config = config
        self.source = TrainingData(
            data, batch_size=config.batch_size, seed=config.seed, rank=rank, world_size=world_size
        )
        self.held_out = TrainingData(self.source.index, split="held_out", batch_size=EVALUATION_BATCH)
        self.normalizer = find_normalizer(config.normalizer, data)
        self.processor = VLMProcessor.from_pretrained(config.vlm)
        torch.manual_seed(config.seed)
        expert = _build(config)
        vlm = load_vlm(config.vlm, layers=max(expert.config.selected_layers) + 1, dtype=torch.float32)
        self.module = ExpertModule(expert, vlm.eval().requires_grad_(False), config.draws)

    def batch(self, step: int) -> dict[str, Tensor]:
        """A prompt (see VLMProcessor.prompt) and the normalised chunks (b, 24, 20) it is to be answered with."""
        return self._prepare(self.source.batch(step))

    def _prepare(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.pictures is not None
        prompt = self.processor.prompt(list(batch.pictures), batch.instructions)
        return {**prompt, "actions": self.normalizer.normalize(torch.from_numpy(batch.actions))}

    def evaluate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """Flow-matching loss with fixed noise, and the action errors of sampled chunks."""
        assert isinstance(module, ExpertModule)
        rows: list[dict[str, Any]] = []
        count = max(1, min(self.config.evaluate_samples, len(self.held_out)) // EVALUATION_BATCH)
        stride = max(1, len(self.held_out) // (count * EVALUATION_BATCH))
        for i in range(count):
            numbers = self.held_out.numbers[i * EVALUATION_BATCH * stride :: stride][:EVALUATION_BATCH]
            batch = self.held_out.load(numbers)
            prepared = {k: v.to(device) for k, v in self._prepare(batch).items()}
            generator = step_generator(self.config.seed, i, 0)
            loss, _ = module(prepared, generator)
            cond = module.condition(prepared)
            noise = torch.randn(prepared["actions"].shape, generator=generator).to(device)
            chunks = self.normalizer.denormalize(module.expert.sample(cond, noise=noise).float().cpu())
            rows.append({"loss": loss, **action_errors(chunks.numpy(), batch.actions).as_dict()})
        return mean_metrics(rows)

    def save(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, ExpertModule)
        module.expert.save_pretrained(folder)
        self.normalizer.save_pretrained(folder)


class ExpertModule(nn.Module):
    """The expert with its loss. The frozen VLM is no submodule: it is neither trained, wrapped nor saved."""

    def __init__(self, expert: Expert, vlm: nn.Module, draws: int):
        super().__init__()
        self.expert = expert
        self.draws = draws
        self._frozen = (vlm,)

    @torch.no_grad()
    def condition(self, batch: dict[str, Tensor]) -> Any:
        """Prefill the frozen VLM over the layers the expert reads."""
        (vlm,) = self._frozen
        vlm.to(batch["actions"].device)
        return self.expert.prepare(prefill(vlm, batch, self.expert.config.selected_layers))

    def forward(
        self, batch: dict[str, Tensor], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Any]]:
        actions = batch["actions"]
        cond = self.condition(batch)
        rows = self.draws * len(actions)
        noise = torch.randn((rows, *actions.shape[1:]), generator=generator).to(actions.device)
        t = sample_timesteps(rows, generator=generator).to(actions.device)
        return flow_matching_loss(self.expert, cond, actions, noise=noise, t=t), {}


def _build(config: ExpertTraining) -> Expert:
    if config.start_from == "scratch":
        return Expert.from_config(ExpertConfig())
    if config.start_from == "tiny":
        return Expert.from_config(ExpertConfig.tiny())
    return Expert.from_pretrained(config.start_from)
