"""Training shards in the published layout: written whole or not at all, read without trusting them.

A data set is a folder::

    shard-000000.tar      samples, each four files:
        {key}.image.jpg         384 x 768, left picture | right picture, JPEG quality 95
        {key}.action.npy        (24, 20) float32: relative poses and absolute widths in metres, NOT normalised
        {key}.action_token.npy  (27,) int16, absent until the shards are tokenised
        {key}.meta.json         {"sub_task_instruction_key": ...} and anything else
    instructions.json     instruction key -> sentence
    normalizer.safetensors
    dataset.yaml

A tar is written under a temporary name and renamed when it is complete, so a file called
``shard-*.tar`` is whole. These are tars that the webdataset library reads too.

sample.py: the files of one sample. tar.py: files of a tar. reading.py, remote.py: samples in order, from disk
or by URL. writing.py: the other way. tokens.py: action
tokens beside a shard.
"""

from __future__ import annotations

from rdt2.data.shards.reading import (
    INSTRUCTION_FILES,
    ReadReport,
    find_shards,
    instruction_table,
    lookup_instruction,
    parse_instructions,
    parse_sample,
    read_instructions,
    read_shards,
    scan_shard,
    stream_shard,
    told_key,
)
from rdt2.data.shards.sample import (
    INSTRUCTION_KEY,
    JPEG_QUALITY,
    MEMBERS,
    NUM_TOKENS,
    PICTURE_SHAPE,
    Sample,
    decode_jpeg,
    encode_jpeg,
    parse_action,
    parse_meta,
    parse_npy,
    parse_state,
    parse_tokens,
)
from rdt2.data.shards.tar import Member, TarReader, scan_tar
from rdt2.data.shards.writing import (
    ShardWriter,
    instruction_key,
    write_atomic,
    write_dataset_yaml,
    write_instructions,
)

__all__ = [
    "INSTRUCTION_FILES",
    "INSTRUCTION_KEY",
    "JPEG_QUALITY",
    "MEMBERS",
    "NUM_TOKENS",
    "PICTURE_SHAPE",
    "Member",
    "ReadReport",
    "Sample",
    "ShardWriter",
    "TarReader",
    "decode_jpeg",
    "encode_jpeg",
    "find_shards",
    "instruction_key",
    "instruction_table",
    "lookup_instruction",
    "parse_action",
    "parse_instructions",
    "parse_meta",
    "parse_npy",
    "parse_sample",
    "parse_state",
    "parse_tokens",
    "read_instructions",
    "read_shards",
    "scan_shard",
    "scan_tar",
    "stream_shard",
    "told_key",
    "write_atomic",
    "write_dataset_yaml",
    "write_instructions",
]
