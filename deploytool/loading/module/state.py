"""What a module keeps from one call to the next: its tensors, and what its own code left in its attributes."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

_OWN = frozenset((*vars(nn.Module()), "forward"))  # what every module has, and what unwrapping may set
_DEEPEST, _MOST = 4, 2000  # levels, and parts of one container, that are looked at
_LISTS = (list, tuple, set, frozenset, deque)  # no iterator: looking at one would move it on
_FLAT = (bool, int, float, complex, str, bytes, type(None))

Snapshot = Mapping[str, Any]


def snapshot(module: nn.Module) -> Snapshot:
    """A copy of all that may change while it runs, by kind and name: `buffer count`, `attribute body.seen`."""
    found: dict[str, Any] = {}
    found |= {f"parameter {name}": _copy(value) for name, value in module.named_parameters()}
    found |= {f"buffer {name}": _copy(value) for name, value in module.named_buffers()}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in _OWN and not isinstance(value, nn.Module):
                found[f"attribute {f'{path}.{name}'.lstrip('.')}"] = _copy(value)
    return found


def differences(before: Snapshot, after: Snapshot) -> tuple[str, ...]:
    """What is another now, or was not there."""
    return tuple(name for name, value in after.items() if name not in before or not _same(before[name], value))


def _copy(value: Any, depth: int = 0) -> Any:
    """A copy of what it holds; what cannot be looked into is taken for what does not change."""
    if isinstance(value, torch.Tensor):
        lazy = torch.nn.parameter.is_lazy(value)
        return None if lazy else value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, _FLAT):
        return value
    if depth >= _DEEPEST or isinstance(value, (nn.Module, type)):
        return None
    if isinstance(value, Mapping):
        return {repr(key): _copy(each, depth + 1) for key, each in list(value.items())[:_MOST]}
    if isinstance(value, _LISTS):
        return [_copy(each, depth + 1) for each in list(value)[:_MOST]]
    if callable(value):
        return None
    return repr(value) if isinstance(value, itertools.count) else _copy(dict(getattr(value, "__dict__", {})), depth + 1)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and _alike(one.cpu(), other.cpu())
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.shape == other.shape and bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    return type(one) is type(other) and (one == other or one != one)  # NaN


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.layout is not torch.strided:
        return True
    return torch.equal(one, other) or bool(((one == other) | (one != one) & (other != other)).all())  # NaN
