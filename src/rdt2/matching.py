"""Which normalizer goes: the one named, a model's own, or that of the data; and that those which meet are one.

A model's numbers mean metres only by the normalizer it was trained with, so that one goes before any that was fitted to
data, and weights whose own is not known never take a fitted one in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from rdt2.action import ROTATION_DIMS
from rdt2.errors import CheckpointError, NormalizerError
from rdt2.hub import locate, offline_note
from rdt2.normalizer import FILE_NAMES, UMI_FILE_NAME, LinearNormalizer, has_normalizer
from rdt2.origin import TOKENS_FILE, TokenOrigin, read_origin

OPTION = "normalizer=FILE"
"""As Python writes it; the command line says how it is typed there (rdt2.cli.usage.typeable)."""
PUBLISHED_DIGEST = "d0e7db1c521d6a2f"
"""Of the normalizer that all published RDT2 models were trained with."""
_SAME_M = 1e-6
"""Maps that differ by less over their range (m; rotation columns: 1) are one, written in other types of number."""


@dataclass(frozen=True)
class Held:
    """A normalizer, where it lies, and whether it is known to be that of a model (not fitted to data)."""

    normalizer: LinearNormalizer
    place: str
    of_model: bool = True


def own_normalizer(model: str | Path) -> Held | None:
    """The one that came with a model: in its folder or hub repository, or in the folder around that (a policy's);
    None where there is none.

    Raises:
        CheckpointError: there is no such model. NormalizerError: it is damaged, or there are two that differ.
    """
    folder = locate(model, FILE_NAMES, what="a model")
    around = [folder.absolute().parent] if Path(model).expanduser().is_dir() else []
    for place in (folder, *around):
        # Around a model that lies among shards is what was fitted to them.
        if has_normalizer(place) and (place == folder or not any(place.glob("*.tar"))):
            return Held(LinearNormalizer.from_pretrained(place), str(place))
    return None


def resolve(
    named: str | Path | None,
    *,
    models: Mapping[str, str | Path | None],
    start: str | Path | None = None,
    data: Callable[[], Held | None] = lambda: None,
) -> Held:
    """The normalizer for a command.

    Args:
        named: what the user names: file, folder or hub id.
        models: what each is ("the action tokenizer") and where it lies, of those that are used as they are: theirs must
            all be one, and be the one named.
        start: the weights that training begins with: theirs goes, unless another is named.
        data: finds that of the data, where no model brings one.

    Raises:
        NormalizerError: there is none, two that differ meet, or weights without their own meet one that was fitted.
    """
    places = {what: place for what, place in models.items() if place is not None}
    own = {f"{what} {place}": own_normalizer(place) for what, place in places.items()}
    if start is not None:
        begin = own_normalizer(start)
        if begin is not None or named is None:
            own[f"the start {start}"] = begin
    chosen = None
    if named is not None:
        chosen = Held(LinearNormalizer.from_pretrained(named), str(named))
        own.pop(f"the start {start}", None)
    for what, held in own.items():
        if held is not None and chosen is not None:
            require_same(chosen, Held(held.normalizer, f"{held.place}, of {what},"))
        chosen = chosen or held
    if chosen is not None:
        return chosen
    found = data()
    published = f"With published weights that is {UMI_FILE_NAME}"
    if found is None:
        raise NormalizerError(
            f"no normalizer beside {' or '.join([*own, 'the shards'])}. Name one with {OPTION} ({published}), or fit "
            "one to data with 'rdt2 data stats --fit'."
        )
    if own and not (found.of_model or found.normalizer.digest == PUBLISHED_DIGEST):
        which = next(iter(own))
        place = start if which.startswith("the start") else next(iter(places.values()))
        raise NormalizerError(
            f"{which} has no normalizer beside it{offline_note(place or '')}, and the one of the data, {found.place}, "
            f"was fitted to them: its numbers would mean other metres. Name the one it was trained with: {OPTION}. "
            f"{published}."
        )
    return found


def require_same(one: Held, other: Held) -> None:
    """Raises NormalizerError where two normalizers differ: which, and by how much."""
    if difference := differs(one.normalizer, other.normalizer):
        raise NormalizerError(
            f"two normalizers meet that differ: {one.place} ({one.normalizer.digest}) and {other.place} "
            f"({other.normalizer.digest}); {difference}. Everything that works together needs the same one: "
            "that of the weights that are not trained anew."
        )


def differs(one: LinearNormalizer, other: LinearNormalizer) -> str:
    """Where two maps differ most over the first's range, in words; empty where they are one."""
    ends = torch.stack([one.minimum, one.maximum])
    worst = (other.denormalize(one.normalize(ends)) - ends).abs().amax(dim=0)
    lengths = worst.clone()
    lengths[list(ROTATION_DIMS)] = 0.0
    if float(worst.max()) < _SAME_M:
        return ""
    if float(lengths.max()) >= _SAME_M:
        return f"the same number is up to {1000 * float(lengths.max()):.4g} mm apart (column {int(lengths.argmax())})"
    return f"the same number is up to {float(worst.max()):.3g} apart in a rotation (column {int(worst.argmax())})"


def require_made_by(made: TokenOrigin, of: str, *, other: TokenOrigin, by: str) -> None:
    """Raises CheckpointError where tokens were made with another tokenizer or normalizer."""
    if difference := made.against(other):
        raise CheckpointError(
            f"the action tokens of {of} were made with {difference} than {by}: the same token "
            "means another motion. Write the tokens of the data with the other's tokenizer and normalizer "
            f"(rdt2 data tokenize); a VLM that is to learn new ones loses its {TOKENS_FILE} first."
        )


def require_decoded_by(vlm: str | Path, used: TokenOrigin) -> TokenOrigin | None:
    """What the action tokens mean that a VLM writes; None where it does not say so.

    Args:
        vlm: its folder or hub id.
        used: what a policy decodes them by.

    Raises:
        CheckpointError: it was taught other tokens.
    """
    made = read_origin(locate(vlm, (TOKENS_FILE,)))
    if made is not None and (difference := made.against(used)):
        raise CheckpointError(
            f"the action tokens of the VLM {vlm} were made with {difference} than this policy would decode them by: "
            "the same token means another motion. Name those it was trained with: tokenizer=FOLDER, normalizer=FILE."
        )
    return made
