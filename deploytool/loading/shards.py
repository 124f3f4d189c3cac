"""Reads the index of a sharded checkpoint in the format of Hugging Face (`model.safetensors.index.json`)."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

from deploytool.errors import BadInput

_MAX_BYTES = 64 << 20  # an index of 100,000 tensors has 10 MiB


def parse_index(text: bytes, size: int) -> list[str]:
    """The file names in an index, in order; raises BadInput for an invalid index or names with a folder.

    size: the bytes of the whole index; `text` may be truncated, which is an error.
    """
    try:
        if len(text) < size:
            raise ValueError(size)
        names = list(dict.fromkeys(json.loads(text)["weight_map"].values()))
        valid = bool(names) and all(isinstance(name, str) and PurePath(name).name == name for name in names)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        valid = False
    if not valid or any(name.endswith(".json") for name in names):
        raise BadInput("this JSON file is not an index of checkpoint shards", "give model.safetensors.index.json")
    return names


def shard_files(path: Path) -> list[Path]:
    """The existing files that the index `path` names; empty if `path` is not an index."""
    if path.suffix != ".json":
        return []
    try:
        text = path.read_bytes()[:_MAX_BYTES]
        names = parse_index(text, len(text))
    except (OSError, BadInput):
        return []
    return [file for name in names if (file := path.with_name(name)).is_file()]
