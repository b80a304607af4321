"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rdt2.evaluation.policies import PolicySource


@dataclass(kw_only=True)
class PolicyOptions:
    """Which policy, made of what."""

    policy: str = "demo-fm"
    """Folder, policy.json or hub id; demo-fm and demo-vq are built in; untrained has random weights."""
    vlm: str | None = None
    """Vision-language model, where the policy is an expert alone (folder or hub id)."""
    tokenizer: str | None = None
    """Action tokenizer, where the policy is an RDT2-VQ model alone (folder or hub id)."""
    normalizer: str | None = None
    """Normalizer file or folder, where the policy brings none."""
    draft: str | None = None
    """For a VQ policy: an FM policy on the same VLM that drafts its tokens; faster, and no result changes."""
    temperature: float | None = None
    """Of a VQ policy: 0 writes the likeliest tokens; above, they are drawn, with the seed. None: the policy's own."""
    draws: int | None = None
    """Each chunk is the mean of so many drawn ones, which errs less; for a VQ policy with a temperature. None: the
    policy's own number."""
    compile: bool = False
    """Compile the policy first: takes up to some minutes, then chunks come faster, on a GPU several times."""
    quantize: Literal["int8", "int4"] | None = None
    """Keep the matrices of the VLM in 8 or 4 bits, for small cards; int4 needs the extra quant."""
    offload: int = 0
    """Matrices of so many language layers wait in CPU memory, on cards that the rest fills; slower."""
    device: str = "cpu"
    """cpu or cuda."""

    def source(self, *, blind: bool = False) -> PolicySource:
        """What `rdt2.evaluation.policies.open_policy` loads."""
        from rdt2.evaluation.policies import PolicySource

        return PolicySource(
            self.policy,
            vlm=self.vlm,
            tokenizer=self.tokenizer,
            normalizer=self.normalizer,
            draft=self.draft,
            temperature=self.temperature,
            draws=self.draws,
            compile=self.compile,
            quantize=self.quantize,
            offload=self.offload,
            device=self.device,
            blind=blind,
        )
