"""What a check says of that which comes with shards: normalizers and token files, and whether they go together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdt2.data.dataset import ShardIndex
from rdt2.data.findings import Finding
from rdt2.data.mixture import DataSource
from rdt2.data.normalizers import data_normalizer
from rdt2.errors import NormalizerError, ShardError
from rdt2.matching import OPTION


def path_findings(source: DataSource) -> list[Finding]:
    """What is wrong with the normalizer and the folder of token files of a data set, those that a dataset yaml names
    or what lies beside the shards."""
    found = []
    try:
        if data_normalizer([source]) is None:
            text = (
                "no normalizer beside the shards, and no normalizer_path in a yaml: a training has to name one with "
                "--set normalizer=FILE, the published one or one of 'rdt2 data stats DATA --fit FOLDER'"
            )
            found.append(Finding("no normalizer", "warning", text, 1))
    except NormalizerError as error:
        found.append(Finding("normalizer", "error", str(error), 1))
    if source.tokens is not None and not Path(source.tokens).is_dir():
        text = f"tokens_dir of data set {source.name!r} is {source.tokens}: there is no such folder"
        found.append(Finding("tokens_dir", "error", text, 1))
    return found


def together_findings(sources: Sequence[DataSource]) -> list[Finding]:
    """What is wrong with data sets, each good by itself, for one training: normalizers or tokens that differ."""
    found = []
    try:
        data_normalizer(sources)
    except NormalizerError as error:
        text = str(error).replace(OPTION, f"--set {OPTION}")  # what is checked here is going to be trained on
        found.append(Finding("normalizers differ", "error", text, 1))
    try:
        ShardIndex(sources, instructions="ignore", damaged_shards="use")
    except ShardError as error:
        found.append(Finding("tokens do not go together", "error", str(error), 1))
    return found
