"""Which policy, made of what, and how it runs: options of `load_policy` and of every command that takes a policy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rdt2.errors import ConfigError
from rdt2.registry import did_you_mean

BUILT_IN = ("demo-fm", "demo-vq")
"""Policies that come with the package."""
UNSAID = ""
"""In place of a policy: none was named, where that means something of its own."""


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """Which policy, made of what, and how it runs."""

    # Plain values, so that other processes can load the same policy for themselves.
    policy: str = "demo-fm"
    """Folder, policy.json or hub id; demo-fm and demo-vq are built in; in evaluations untrained has random weights;
    ws://host:8000 is a server of rdt2 serve."""
    revision: str | None = None
    """Branch, tag or commit of the policy's hub repository; for other parts write owner/name@revision."""
    vlm: str | None = None
    """Vision-language model, where the policy is an expert alone (folder or hub id); LoRA adapters may stand for it."""
    processor: str | None = None
    """Text and picture processing. None: what lies beside the VLM, else Qwen/Qwen2.5-VL-7B-Instruct's."""
    tokenizer: str | None = None
    """Action tokenizer, where the policy is an RDT2-VQ model alone (folder or hub id)."""
    normalizer: str | None = None
    """Normalizer file or folder, where the policy brings none."""
    device: str = "cpu"
    """Where the models run: cpu, cuda or cuda:N."""
    dtype: str | None = None
    """Numbers of the VLM and the expert, such as bfloat16. None: bfloat16 on a GPU, float32 elsewhere. The tokenizer
    always has float32."""
    steps: int | None = None
    """Euler steps of an FM policy. None: the checkpoint's own; 1 for a one-step checkpoint."""
    temperature: float | None = None
    """Of a VQ policy: 0 writes the likeliest tokens; above, they are drawn, with the seed. None: the policy's own."""
    draws: int | None = None
    """Each chunk is the mean of so many drawn ones, which errs less; for a VQ policy with a temperature. None: the
    policy's own number."""
    quantize: Literal["int8", "int4"] | None = None
    """Keep the matrices of the VLM in 8 or 4 bits, for small cards; int4 needs the extra quant."""
    offload: int = 0
    """Matrices of so many language layers wait in CPU memory, on cards that the rest fills; slower, and no result
    changes. Not together with quantize or compile."""
    compile: bool = False
    """Compile the policy first: takes up to some minutes, then chunks come faster, on a GPU several times."""

    api_key_file: str | None = None
    """File with an API key, one line. Of rdt2 serve: the key that clients must know; with --policy ws://..., the key to
    send."""
    jpeg: bool = False
    """Send a server its pictures compressed, exactly as the policies compress them anyway: a tenth of the bytes, for
    slow networks; the chunks are the same."""

    @classmethod
    def of(cls, policy: str | Path | PolicySpec, **options: Any) -> PolicySpec:
        """A spec with some options set. Paths, numbers of devices and torch's devices and dtypes become their names.

        Raises:
            ConfigError: an option that there is none of.
        """
        spec = policy if isinstance(policy, PolicySpec) else cls(policy=str(policy))
        known = [each.name for each in dataclasses.fields(cls)]
        for name in options:
            if name not in known[1:]:
                hint = did_you_mean(name, known) or f" There are: {', '.join(known[1:])}."
                raise ConfigError(f"load_policy has no option {name!r}.{hint}")
        for name in ("vlm", "processor", "tokenizer", "normalizer", "dtype", "device", "api_key_file"):
            value = options.get(name)
            if value is not None and not isinstance(value, str):
                is_number = isinstance(value, int) and not isinstance(value, bool)
                options[name] = f"cuda:{value}" if name == "device" and is_number else str(value)
        return dataclasses.replace(spec, **options)
