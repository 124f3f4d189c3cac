"""Flattens what a model answers with: every tensor in it, under a name that follows from where it stands."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

DEFAULT_NAME = "logits"  # what the only output is called that has no name of its own
_DEEPEST = 16
_ODD = re.compile(r"[^A-Za-z0-9_.-]")  # what ONNX, TensorRT and file formats had better not find in a name
_PLAIN = (bool, int, float, complex, str, bytes, type(None))

Path = tuple["str | int", ...]


@dataclass(frozen=True)
class NamedTensors:
    """The tensors by name, in their order, and the types of what else stood there, None aside."""

    tensors: Mapping[str, torch.Tensor]
    others: Mapping[str, str]


def flatten(made: Any, inputs: Collection[str] = ()) -> NamedTensors:
    """Every tensor of what a model made.

    Of a dict, a dataclass, a named tuple and an object the keys become names, of tuples and lists the places:
    `logits`, `past.0.key`, `output_1`. A name that an input has is followed by `_out`.
    """
    tensors: dict[str, torch.Tensor] = {}
    others: dict[str, str] = {}
    found = list(_leaves(made, (), ()))
    single = sum(isinstance(leaf, torch.Tensor) for _, leaf in found) == 1
    for path, leaf in found:
        if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided:
            keyless = not any(isinstance(step, str) for step in path)
            name = DEFAULT_NAME if single and keyless else _name(path)
            tensors[_own(name, {*tensors, *inputs}, name in inputs)] = leaf
        elif leaf is not None:
            others[_name(path)] = type(leaf).__name__
    return NamedTensors(tensors, others)


def _leaves(value: Any, path: Path, above: tuple[int, ...]) -> Iterator[tuple[Path, Any]]:
    """What stands in a structure, each with the way there; None where something is its own part."""
    items = None if isinstance(value, torch.Tensor) or len(path) > _DEEPEST else _items(value)
    if items is None:
        yield path, value
    elif id(value) not in above:
        for step, each in items:
            yield from _leaves(each, (*path, step), (*above, id(value)))


def _items(value: Any) -> list[tuple[str | int, Any]] | None:
    """The parts of a structure with their keys or places; None for what has none."""
    if isinstance(value, _PLAIN):
        return None
    if isinstance(value, Mapping):
        return [(str(key), each) for key, each in value.items()]
    if is_dataclass(value) and not isinstance(value, type):
        return [(each.name, getattr(value, each.name, None)) for each in fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=False))
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    own = [(name, each) for name, each in getattr(value, "__dict__", {}).items() if not name.startswith("_")]
    return own if any(_holds(each) for _, each in own) else None


def _holds(value: Any, depth: int = 3) -> bool:
    """Whether there is a tensor in it."""
    if isinstance(value, torch.Tensor):
        return True
    items = _items(value) if depth else None
    return any(_holds(each, depth - 1) for _, each in items or ())


def _name(path: Path) -> str:
    """`past.0.key`; what begins with a place, `output_1.key`."""
    steps = [_ODD.sub("_", str(step)) or "_" for step in path]
    if not path or isinstance(path[0], int):
        steps[:1] = [f"output_{steps[0]}" if steps else "output"]
    return ".".join(steps)


def _own(name: str, taken: Collection[str], of_an_input: bool) -> str:
    """The name, told apart from those that are taken."""
    wanted = f"{name}_out" if of_an_input else name
    free, number = wanted, 2
    while free in taken:
        free, number = f"{wanted}_{number}", number + 1
    return free
