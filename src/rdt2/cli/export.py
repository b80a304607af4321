"""`rdt2 export`: trained parts into a folder that is used and handed on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from rdt2.cli.choices import Out


@dataclass(kw_only=True)
class ExportBundle:
    """Gather trained parts into one folder that is a policy.

    VLM, tokenizer, normalizer and expert, with vq.json and fm.json. Every command that takes --policy takes such a
    file.

    For example:
      rdt2 export bundle --vlm runs/vq/model --tokenizer runs/rvq/model --expert runs/fm/model --out my-policy
      rdt2 evaluate cell --policy my-policy/fm.json
    """

    vlm: str
    """Folder or hub id of the vision-language model."""
    tokenizer: str
    """Folder or hub id of the action tokenizer."""
    out: Path
    """New folder."""
    normalizer: str | None = None
    """Normalizer file or folder; none takes the one in the tokenizer's folder."""
    expert: str | None = None
    """Folder or hub id of the flow-matching expert; none writes vq.json only."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Of the weights on disk (the tokenizer stays float32)."""
    draws: int = 1
    """fm.json says: predict the mean of so many drawn chunks, unless --draws says otherwise."""
    vq_draws: int = 1
    """The same of vq.json, with a temperature."""
    vq_temperature: float = 0.0
    """vq.json says: draw tokens at this temperature; 0 takes the likeliest."""
    patience: float | None = None
    """Both say: arms that have got nowhere for so many seconds drive a whole chunk. For a policy that puts off what it
    means to do each time it is asked; none leaves it out."""
    json: Path | None = None
    """Write the files and their size to this file; - is stdout, alone."""

    def run(self) -> None:
        import torch

        from rdt2.cli.output import console, save_json
        from rdt2.errors import ConfigError
        from rdt2.policy.export import export_policies
        from rdt2.policy.vq import check_draws

        if self.draws < 1:
            raise ConfigError(f"draws is {self.draws}, expected 1 or more.")
        check_draws(self.vq_draws, self.vq_temperature)
        if self.patience is not None and not self.patience > 0:
            raise ConfigError(f"patience is {self.patience}, expected seconds above 0, or leave it out.")
        waits = {} if self.patience is None else {"patience": self.patience}
        drawn = {"draws": self.vq_draws, "temperature": self.vq_temperature} if self.vq_temperature else {}
        bundles = export_policies(
            self.out,
            vlm=self.vlm,
            tokenizer=self.tokenizer,
            normalizer=self.normalizer,
            expert=self.expert,
            dtype=getattr(torch, self.dtype),
            fm_settings=({"draws": self.draws} if self.draws != 1 else {}) | waits,
            vq_settings=drawn | waits,
        )
        size = sum(file.stat().st_size for file in self.out.rglob("*") if file.is_file())
        for path in bundles:
            console().print(f"{path}", highlight=False, soft_wrap=True)
        console().print(f"{size / 1e6:.1f} MB in {self.out}", highlight=False)
        save_json(self.json, {"policies": bundles, "bytes": size})


@dataclass(kw_only=True)
class ExportMerge:
    """Add trained adapters to their model: a whole RDT2-VQ.

    It is in the published layout.

    For example:
      rdt2 export merge runs/lora/model runs/lora/merged
      rdt2 export bundle --vlm runs/lora/merged --tokenizer runs/rvq/model --out my-policy
    """

    adapter: Annotated[Positional[str], arg(metavar="ADAPTER")]
    """Folder or hub id of the adapters: the model folder of a run with adapter=lora, or what PEFT wrote (LoRA, rsLoRA,
    DoRA). Without merging, it may stand wherever a VLM is asked for; merged it loads sooner and others read it."""
    out: Out
    """New folder."""
    base: str | None = None
    """Folder or hub id of the vision-language model; none takes the one that the adapters name."""
    dtype: Literal["float16", "bfloat16", "float32"] = "bfloat16"
    """Of the weights that are written; the sums are made in float32."""
    json: Path | None = None
    """Write the folder and its size to this file; - is stdout, alone."""

    def run(self) -> None:
        import torch

        from rdt2.cli.output import console, save_json
        from rdt2.progress import working
        from rdt2.training.adapters import merge_adapters

        with working("merging"):
            out = merge_adapters(self.adapter, self.out, base=self.base, dtype=getattr(torch, self.dtype))
        size = sum(file.stat().st_size for file in out.iterdir())
        console().print(f"{size / 1e6:.1f} MB in {out}", highlight=False, soft_wrap=True)
        save_json(self.json, {"out": out, "bytes": size})
