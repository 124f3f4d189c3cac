"""The index of a checkpoint that was saved in several files, as Hugging Face's libraries write it."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

from deploytool.errors import BadInput

_LIMIT = 64 << 20  # bytes; an index of a hundred thousand tensors has 10 MiB


def parse_index(text: bytes, size: int) -> list[str]:
    """The names of the files that an index names, in its order; raises BadInput if it is none, or names others' files.

    size: the bytes of the whole index, of which `text` may be the start.
    """
    try:
        if len(text) < size:
            raise ValueError(size)
        names = list(dict.fromkeys(json.loads(text)["weight_map"].values()))
        sound = bool(names) and all(isinstance(name, str) and PurePath(name).name == name for name in names)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        sound = False
    if not sound or any(name.endswith(".json") for name in names):
        raise BadInput("this JSON file is no index of a checkpoint's files", "give model.safetensors.index.json")
    return names


def shard_files(path: Path) -> list[Path]:
    """The files that the index `path` names, as far as they are there; none if it is no index."""
    if path.suffix != ".json":
        return []
    try:
        text = path.read_bytes()[:_LIMIT]
        names = parse_index(text, len(text))
    except (OSError, BadInput):
        return []
    return [file for name in names if (file := path.with_name(name)).is_file()]
