"""Snapshots the state of a module (parameters, buffers, attributes) to detect changes between calls."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

_MODULE_ATTRIBUTES = frozenset((*vars(nn.Module()), "forward"))  # of every module; unwrapping may set forward
_MAX_DEPTH, _MAX_ITEMS = 4, 2000  # nesting levels, and items per container, that are copied
_COLLECTIONS = (list, tuple, set, frozenset, deque)  # no iterators: reading one would advance it
_SCALARS = (bool, int, float, complex, str, bytes, type(None))

Snapshot = Mapping[str, Any]


def snapshot(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> Snapshot:
    """Copies all state that a call may change, by kind and name: `buffer count`, `attribute body.seen`.

    A parameter or buffer that equals the one of its name in `weights` is not copied: that one stands for it.
    """
    state: dict[str, Any] = {}
    for kind, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for name, value in tensors:
            known = weights.get(name)
            same = known is not None and not torch.nn.parameter.is_lazy(value) and _equal(known, value.detach())
            state[f"{kind} {name}"] = known if same else _copy(value)
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in _MODULE_ATTRIBUTES and not isinstance(value, nn.Module):
                state[f"attribute {f'{path}.{name}'.lstrip('.')}"] = _copy(value)
    return state


def differences(before: Snapshot, after: Snapshot) -> tuple[str, ...]:
    """The names of values that changed or were added."""
    return tuple(name for name, value in after.items() if name not in before or not _equal(before[name], value))


def _copy(value: Any, depth: int = 0) -> Any:
    """A copy for comparison; values of unsupported types are copied as None and count as unchanged."""
    if isinstance(value, torch.Tensor):
        lazy = torch.nn.parameter.is_lazy(value)
        return None if lazy else value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, _SCALARS):
        return value
    if depth >= _MAX_DEPTH or isinstance(value, (nn.Module, type)):
        return None
    if isinstance(value, Mapping):
        return {repr(key): _copy(item, depth + 1) for key, item in list(value.items())[:_MAX_ITEMS]}
    if isinstance(value, _COLLECTIONS):
        return [_copy(item, depth + 1) for item in list(value)[:_MAX_ITEMS]]
    if callable(value):
        return None
    return repr(value) if isinstance(value, itertools.count) else _copy(dict(getattr(value, "__dict__", {})), depth + 1)


def _equal(before: Any, after: Any) -> bool:
    """Whether two copies are equal; NaN equals NaN."""
    if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
        same_type = before.shape == after.shape and before.dtype == after.dtype
        return same_type and _equal_tensors(before.cpu(), after.cpu())
    if isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
        equal_nan = before.dtype.kind in "fc"
        return before.shape == after.shape and bool(np.array_equal(before, after, equal_nan=equal_nan))
    if isinstance(before, dict) and isinstance(after, dict):
        return before.keys() == after.keys() and all(_equal(value, after[name]) for name, value in before.items())
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(_equal(*pair) for pair in zip(before, after, strict=True))
    return type(before) is type(after) and (before == after or before != before)


def _equal_tensors(before: torch.Tensor, after: torch.Tensor) -> bool:
    if before is after or before.layout is not torch.strided:
        return True
    if torch.equal(before, after):
        return True
    return bool(((before == after) | (before != before) & (after != after)).all())  # NaN equals NaN
