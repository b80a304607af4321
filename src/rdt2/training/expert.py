"""Training RDT2-FM: the flow-matching expert learns on the keys and values of the frozen VLM."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rdt2.data import Batch
from rdt2.errors import ConfigError
from rdt2.expert import Conditioning, Expert, ExpertConfig, Prefix, flow_matching_loss, sample_timesteps
from rdt2.metrics import action_errors
from rdt2.packed import pack_linears
from rdt2.training.config import ExpertTraining
from rdt2.training.engines import split_frozen
from rdt2.training.evaluation import mean_over_batches
from rdt2.training.kv_cache import DiskCache
from rdt2.training.loop import processes, reading_device, step_generator
from rdt2.training.normalizer import find_normalizer, of_another
from rdt2.training.pictures import PatchCutter
from rdt2.training.samples import Samples, corruption
from rdt2.training.stage import EXAMPLES, Stage
from rdt2.vlm import PLAIN, KVCache, Layers, VLMProcessor, compile_layers, load_vlm, prefill
from rdt2.vlm.mark import mark_of, write_mark

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


class ExpertStage(Stage):
    """RDT2-FM on the keys and values of a frozen VLM."""

    name = "expert"
    start_stays = False
    """Whether what training begins with is also used as it is."""

    def __init__(self, config: ExpertTraining, data: str | Path, *, rank: int = 0, world_size: int = 1):
        self.config = config
        self.processor = VLMProcessor.beside(config.vlm, given=config.processor)
        self._cut = PatchCutter(self.processor.images, processes().device)
        self.samples = Samples(
            config, data, rank=rank, world_size=world_size, states=config.state, mirror=config.mirror,
            corruption=corruption(config.augment, config.seed), cut=self._cut.while_loading,
        )  # fmt: skip
        self.take(self.samples)
        self.normalizer = find_normalizer(
            config.normalizer,
            self.samples.train.index,
            start=None if self.start_stays else config.start_from,
            models={"the teacher": config.start_from} if self.start_stays else {},
        )
        self.notes = [*self.notes, *of_another(self.normalizer, config.start_from)]
        torch.manual_seed(config.seed)
        self.module = self.build()
        self._learnt_on = mark_of(config.vlm, self.module.expert.config.selected_layers)

    def build(self) -> ExpertModule:
        """The expert that trains, beside the frozen VLM."""
        config = self.config
        if config.start_from in ("scratch", "tiny"):
            shape = ExpertConfig() if config.start_from == "scratch" else ExpertConfig.tiny()
            expert = Expert.from_config(shape)
        else:
            expert = Expert.from_pretrained(config.start_from, device=reading_device(config))
            require_same_state(expert, config)
            _require_same_sampling(expert, config)
        expert.config = dataclasses.replace(expert.config, reads_state=config.state, prefix=config.prefix)
        return ExpertModule(expert, self.frozen_vlm(expert), config)

    def frozen_vlm(self, expert: Expert) -> FrozenVLM:
        """As many layers of the VLM as the expert reads, in the compute precision; split like what trains, where each
        process calls it in every step and its layers are plain."""
        config = self.config
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        quantize = None if config.quantize == "none" else config.quantize
        layers = expert.config.selected_layers
        device = processes().device
        split = config.shard and torch.distributed.is_initialized()
        if split and quantize is None and config.kv_cache is None and not config.compile:
            vlm = load_vlm(config.vlm, layers=max(layers) + 1, dtype=None)
            return FrozenVLM(vlm, layers, precision=config.precision, split=dtype)
        vlm = load_vlm(config.vlm, layers=max(layers) + 1, dtype=dtype, device=device, quantize=quantize)
        run = compile_layers() if config.compile else PLAIN
        return FrozenVLM(vlm, layers, precision=config.precision, cache=config.kv_cache, run=run)

    def load(self, step: int) -> Batch:
        """The samples of one step."""
        return self.samples.batch(step)

    def ready(self, loaded: Batch, device: torch.device) -> dict[str, Tensor]:
        """A prompt (see VLMProcessor.prompt), the normalised chunks (b, 24, 20) it is to be answered with, and where
        the arms are (b, 20), if that is to be seen.
        """
        prompt = self.processor.prompt(self._cut(loaded), loaded.instructions)
        states = {} if loaded.states is None else {"state": torch.from_numpy(loaded.states)}
        batch = {**prompt, **states, "actions": self.normalizer.normalize(torch.from_numpy(loaded.actions))}
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    def evaluate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """The loss with fixed noise, and the action errors of sampled chunks."""
        assert isinstance(module, ExpertModule)
        count = self.samples.held_out_batches(self.config.evaluate_samples)

        def figures(i: int) -> dict[str, Any]:
            batch = self.samples.held_out_batch(i, count)
            prepared = self.ready(batch, device)
            generator = step_generator(self.config.seed, i, 0)
            loss, _ = module(prepared, generator)
            cond = module.condition(prepared)
            noise = torch.randn(prepared["actions"].shape, generator=generator).to(device)
            row = {"loss": loss}
            for name, sampled in module.samples(cond, noise, prepared.get("state")).items():
                chunks = self.normalizer.denormalize(sampled.float().cpu()).numpy()
                row |= {name + key: v for key, v in action_errors(chunks, batch.actions).as_dict().items()}
                if i == 0 and not name:
                    self.examples = chunks[:EXAMPLES], batch.actions[:EXAMPLES]
            return row

        return mean_over_batches(count, figures)

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write the expert and its normalizer, in the published layout, and which VLM it learnt on."""
        assert isinstance(module, ExpertModule)
        module.expert.save_pretrained(folder)
        write_mark(folder, self._learnt_on)
        self.normalizer.save_pretrained(folder)


class Frozen:
    """A model that training uses and does not change: hidden from the module, so neither wrapped nor saved."""

    def __init__(self, model: nn.Module, *, precision: str):
        self._model = model.eval().requires_grad_(False)
        self._to_pack = precision == "fp32"  # autocast does not reach packed layers

    def on(self, device: torch.device) -> Any:
        """The model, moved to the device when it is not there yet, and made fast on it."""
        if next(self._model.parameters()).device != device:
            self._model.to(device)
        if self._to_pack and device.type == "cpu":
            pack_linears(self._model)
            self._to_pack = False
        return self._model

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self


class FrozenVLM(Frozen):
    """The VLM, whose keys and values may be kept on disk, or whose weights be split over the processes."""

    def __init__(
        self,
        vlm: nn.Module,
        layers: Sequence[int],
        *,
        precision: str,
        cache: str | None = None,
        split: torch.dtype | None = None,
        run: Layers = PLAIN,
    ):
        super().__init__(vlm, precision=precision)
        self._split = None if split is None else split_frozen(vlm, split)
        self._layers, self._run = layers, run
        self._cache = None if cache is None else DiskCache(cache, vlm, layers)

    @torch.no_grad()
    def prefill(self, batch: dict[str, Tensor]) -> KVCache:
        """Keys and values of the layers that the expert reads, on the batch's device."""
        if self._split is not None:
            found: KVCache = self._split(run=lambda vlm: prefill(vlm, batch, self._layers))
            return found
        vlm = self.on(batch["input_ids"].device)
        if self._cache is None:
            return prefill(vlm, batch, self._layers, run=self._run)
        return self._cache.prefill(vlm, batch, run=self._run)


class ExpertModule(nn.Module):
    """The expert with its loss on what the frozen VLM says."""

    def __init__(self, expert: Expert, vlm: FrozenVLM, config: ExpertTraining):
        super().__init__()
        self.expert = expert
        self.expert.checkpointing = config.gradient_checkpointing
        self.draws = config.draws
        self._vlm = vlm

    def condition(self, batch: dict[str, Tensor]) -> Conditioning:
        """What the expert attends to: no gradient goes there."""
        return self.expert.prepare(self._vlm.prefill({k: v for k, v in batch.items() if k != "state"}))

    def noise(
        self, actions: Float[Tensor, "b 24 20"], generator: torch.Generator | None
    ) -> Float[Tensor, "kb 24 20"]:
        """As many draws for each observation as the configuration says."""
        shape = (self.draws * len(actions), *actions.shape[1:])
        return torch.randn(shape, generator=generator).to(actions.device)

    def forward(
        self, batch: dict[str, Tensor], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Loss of a batch (normalized chunks (b, 24, 20) with what the VLM sees), a scalar, and nothing more to log."""
        actions = batch["actions"]
        cond = self.condition(batch)
        noise = self.noise(actions, generator)
        t = sample_timesteps(len(noise), generator=generator).to(actions.device)
        given = self.given(noise, generator)
        state = batch.get("state")
        return flow_matching_loss(self.expert, cond, actions, noise=noise, t=t, state=state, given=given), {}

    def given(
        self, noise: Float[Tensor, "kb 24 20"], generator: torch.Generator | None
    ) -> Bool[Tensor, "kb 24"] | None:
        """Rows that are given without noise, as many for each chunk as chance will have it; none without `prefix`."""
        if not self.expert.config.prefix:
            return None
        rows = torch.randint(0, self.expert.config.prefix + 1, (len(noise),), generator=generator)
        return Prefix.of(noise, rows.to(noise.device)).given

    def samples(
        self, cond: Conditioning, noise: Float[Tensor, "b 24 20"], state: Float[Tensor, "b 20"] | None
    ) -> dict[str, Float[Tensor, "b 24 20"]]:
        """Normalised chunks to evaluate, by the prefix of their figures' names."""
        return {"": self.expert.sample(cond, noise=noise, state=state)}


def require_same_state(expert: Expert, config: ExpertTraining) -> None:
    """Raises ConfigError where an expert that was trained with a state would go on without it."""
    if expert.config.reads_state and not config.state:
        raise ConfigError(
            f"{config.start_from} was trained with the arms' state. Go on with state=true, or start from another."
        )


def _require_same_sampling(expert: Expert, config: ExpertTraining) -> None:
    """Raises ConfigError where an expert would unlearn how it is sampled: in one step, or after given rows."""
    if expert.config.steps == 1:
        raise ConfigError(
            f"{config.start_from} was distilled to one step, which flow matching unlearns. Go on with the expert that "
            "it was distilled from, and distil that again ('rdt2 train distill')."
        )
    if expert.config.prefix and not config.prefix:
        raise ConfigError(
            f"{config.start_from} was trained with prefix={expert.config.prefix}, and would unlearn to go on from "
            f"given rows. Go on with prefix={expert.config.prefix}, or start from another."
        )
