"""Gather trained parts into one folder that `load_policy` reads: small to keep, complete to hand on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rdt2.errors import CheckpointError, NormalizerError
from rdt2.expert import Expert
from rdt2.files import whole_folder
from rdt2.matching import OPTION, PUBLISHED_DIGEST, own_normalizer, require_decoded_by, resolve
from rdt2.normalizer import UMI_FILE_NAME, LinearNormalizer
from rdt2.origin import TokenOrigin, write_origin
from rdt2.policy.bundle import save_bundle
from rdt2.tokenizer import ActionTokenizer


def export_policies(
    out: str | Path,
    *,
    vlm: str | Path,
    tokenizer: str | Path,
    normalizer: str | Path | None = None,
    expert: str | Path | None = None,
    dtype: torch.dtype = torch.float16,
    fm_settings: Mapping[str, Any] | None = None,
    vq_settings: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Copy the parts into ``out`` and write ``vq.json`` and, with an expert, ``fm.json`` beside them.

    Args:
        out: a folder that is empty or not there.
        vlm: whole Qwen2.5-VL with its processor files.
        tokenizer: action tokenizer; stays float32.
        normalizer: none takes the one in the tokenizer's folder.
        expert: flow-matching expert trained on this VLM. A normalizer in its folder is its own and goes with
            it; without one it shares that of the tokens, where that is named or the published one.
        dtype: of the VLM's and the expert's weights on disk.
        fm_settings, vq_settings: ``patience``, and ``draws`` and ``temperature`` of ``load_policy`` where it is not
            given them.

    Returns:
        The bundle files, each of which `load_policy` takes.

    Raises:
        CheckpointError: a part is missing or damaged, the VLM writes tokens of another tokenizer, or ``out`` holds
            something already.
        ConfigError: the expert learnt on another VLM.
        NormalizerError: see rdt2.matching.resolve; the expert's is not known.
    """
    from rdt2.vlm import VLMProcessor, load_vlm, save_vlm
    from rdt2.vlm.mark import hand_on, require_learnt_on

    out = Path(out)
    writes = vlm if own_normalizer(vlm) is not None else None
    of_tokens = resolve(normalizer, models={"the action tokenizer": tokenizer, "the VLM": writes}).normalizer
    decoder = ActionTokenizer.from_pretrained(tokenizer)
    made = require_decoded_by(vlm, TokenOrigin(decoder.digest, of_tokens.digest))
    of_expert = None if expert is None else _of_expert(expert, of_tokens, named=normalizer is not None)
    if expert is not None:
        require_learnt_on(expert, vlm)
    with whole_folder(out, error=CheckpointError) as partial:
        save_vlm(load_vlm(vlm, dtype=dtype), partial / "vlm")
        VLMProcessor.beside(vlm).save_pretrained(partial / "vlm")
        decoder.save_pretrained(partial / "tokenizer")
        for folder in (partial, partial / "vlm", partial / "tokenizer"):
            of_tokens.save_pretrained(folder)
        if made is not None:
            write_origin(partial / "vlm", made)
        if expert is not None and of_expert is not None:
            Expert.from_pretrained(expert, dtype=dtype).save_pretrained(partial / "expert")
            of_expert.save_pretrained(partial / "expert")
            hand_on(expert, partial / "expert")
    vlm, tokenizer, expert_out = out / "vlm", out / "tokenizer", out / "expert"
    bundles = [
        save_bundle(
            out / "vq.json", kind="vq", settings=vq_settings, vlm=vlm, tokenizer=tokenizer, normalizer=out
        )
    ]
    if expert is not None:
        bundles.append(
            save_bundle(
                out / "fm.json",
                kind="fm",
                settings=fm_settings,
                vlm=vlm,
                expert=expert_out,
                normalizer=expert_out,
            )
        )
    return bundles


def _of_expert(expert: str | Path, of_tokens: LinearNormalizer, *, named: bool) -> LinearNormalizer:
    """The normalizer of an expert: its own, else that of the tokens, where it is sure to be the expert's, too."""
    if (own := own_normalizer(expert)) is not None:
        return own.normalizer
    if not named and of_tokens.digest != PUBLISHED_DIGEST:
        raise NormalizerError(
            f"the expert {expert} has no normalizer beside it, and that of the action tokens ({of_tokens.digest}) "
            f"is not the published one ({UMI_FILE_NAME}): its numbers may mean other metres. Put the one it was "
            f"trained with beside it, or name one for both with {OPTION}."
        )
    return of_tokens
