"""Recorded episodes, training shards in the published layout, and the checks on them."""

from __future__ import annotations

from rdt2.data.batch import Batch
from rdt2.data.batches import TrainingData
from rdt2.data.check import check_shards
from rdt2.data.dataset import ShardIndex, split_by_episode
from rdt2.data.episode import Episode, cut_chunks
from rdt2.data.findings import CheckReport, Finding
from rdt2.data.mixture import DataSource, open_sources
from rdt2.data.shards import (
    ReadReport,
    Sample,
    ShardWriter,
    decode_jpeg,
    encode_jpeg,
    find_shards,
    read_instructions,
    read_shards,
    write_dataset_yaml,
)
from rdt2.data.stats import ActionStatistics, action_statistics, fit_normalizer
from rdt2.data.tokenizing import tokenize_beside, tokenize_shards

__all__ = [
    "ActionStatistics",
    "Batch",
    "CheckReport",
    "DataSource",
    "Episode",
    "Finding",
    "ReadReport",
    "Sample",
    "ShardIndex",
    "ShardWriter",
    "TrainingData",
    "action_statistics",
    "check_shards",
    "cut_chunks",
    "decode_jpeg",
    "encode_jpeg",
    "find_shards",
    "fit_normalizer",
    "open_sources",
    "read_instructions",
    "read_shards",
    "split_by_episode",
    "tokenize_beside",
    "tokenize_shards",
    "write_dataset_yaml",
]
