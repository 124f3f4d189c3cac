"""Flattens the nested result of a model to named tensors; names are derived from keys and positions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

DEFAULT_NAME = "logits"  # of a single output without a key
_MAX_DEPTH = 16
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")  # characters that ONNX, TensorRT or file formats may not support in names
_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_OF_A_CACHE = "get_seq_length"  # a method of the caches of transformers: state of a decoder, which is no output

Path = tuple["str | int", ...]


@dataclass(frozen=True)
class NamedTensors:
    """The tensors by name, in order, and the type names of other values except None."""

    tensors: Mapping[str, torch.Tensor]
    others: Mapping[str, str]


def flatten(result: Any, inputs: Collection[str] = ()) -> NamedTensors:
    """All tensors in what a model returned.

    Names consist of the keys of dicts, dataclasses, named tuples and objects, and the positions in tuples and lists:
    `logits`, `past.0.key`, `output_1`. An output with the name of an input gets the suffix `_out`.
    """
    tensors: dict[str, torch.Tensor] = {}
    others: dict[str, str] = {}
    leaves = list(_leaves(result, (), ()))
    is_single = sum(isinstance(leaf, torch.Tensor) for _, leaf in leaves) == 1
    for path, leaf in leaves:
        if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided:
            has_no_key = not any(isinstance(step, str) for step in path)
            name = DEFAULT_NAME if is_single and has_no_key else _name(path)
            tensors[_unique(name, {*tensors, *inputs}, name in inputs)] = leaf
        elif leaf is not None:
            others[_name(path)] = type(leaf).__name__
    return NamedTensors(tensors, others)


def _leaves(value: Any, path: Path, parents: tuple[int, ...]) -> Iterator[tuple[Path, Any]]:
    """The leaves of a nested structure with their paths; skips containers that contain themselves."""
    items = None if isinstance(value, torch.Tensor) or len(path) > _MAX_DEPTH else _items(value)
    if items is None:
        yield path, value
    elif id(value) not in parents:
        for step, item in items:
            yield from _leaves(item, (*path, step), (*parents, id(value)))


def _items(value: Any) -> list[tuple[str | int, Any]] | None:
    """The items of a container with their keys or positions; None for a leaf, and for a cache of keys and values."""
    if isinstance(value, _SCALARS) or callable(getattr(value, _OF_A_CACHE, None)):
        return None
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name, None)) for field in fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=False))
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    attributes = [(name, item) for name, item in getattr(value, "__dict__", {}).items() if not name.startswith("_")]
    return attributes if any(_contains_tensor(item) for _, item in attributes) else None


def _contains_tensor(value: Any, depth: int = 3) -> bool:
    if isinstance(value, torch.Tensor):
        return True
    items = _items(value) if depth else None
    return any(_contains_tensor(item, depth - 1) for _, item in items or ())


def _name(path: Path) -> str:
    """The name for a path: `past.0.key`, or `output_1.key` if it starts with a position."""
    steps = [_UNSAFE.sub("_", str(step)) or "_" for step in path]
    if not path or isinstance(path[0], int):
        steps[:1] = [f"output_{steps[0]}" if steps else "output"]
    return ".".join(steps)


def _unique(name: str, taken: Collection[str], is_input: bool) -> str:
    """The name, with a suffix if it is taken."""
    preferred = f"{name}_out" if is_input else name
    unique, number = preferred, 2
    while unique in taken:
        unique, number = f"{preferred}_{number}", number + 1
    return unique
