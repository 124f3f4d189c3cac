"""Sums in the worst order that a runtime adds in: one number after the other, in FP32.

PyTorch adds in a tree of pairs, so that its error hardly grows with how many numbers there are. ONNX Runtime's
GlobalAveragePool of whole blocks of channels, and its ReduceMean along the outer axes, add one number after the other:
of numbers alike, as a picture of one colour has, every step is rounded in the same direction, and the sum drifts: 4e-7
for 64 of them, 4e-5 for 4,096. Its matrix product does so for up to 1,024 numbers, or 256 of a weight, and adds what
comes out; its InstanceNormalization in eight sums side by side. Softmax, LayerNormalization and convolutions are as
exact there as in PyTorch, and stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from itertools import product
from typing import Any

import numpy as np
import torch
from torch.nn import functional

_LANES = 8  # sums side by side in ONNX Runtime's InstanceNormalization
_RUN, _PACKED = 1024, 256  # numbers its matrix product adds one after the other, and those it does of packed weights
_WORK = 1 << 23  # numbers that a matrix product may write in all its steps: some hundredths of a second

Sum = Callable[..., torch.Tensor | None]  # takes what the call takes; None where it must be left to PyTorch


def in_sequence(x: torch.Tensor, sides: Sequence[int], *, keepdim: bool = False, lanes: int = 1) -> torch.Tensor:
    """The sum over some sides, one number after the other in the order of memory, in FP32.

    With `lanes` there are so many sums side by side, which are added at the end.
    """
    places = sorted(side % x.dim() for side in sides)
    rest = [side for side in range(x.dim()) if side not in places]
    rows = x.permute(*rest, *places).reshape(*(x.shape[side] for side in rest), -1)
    if lanes > 1:
        filled = functional.pad(rows, (0, -rows.shape[-1] % lanes))
        rows = filled.reshape(*filled.shape[:-1], -1, lanes).transpose(-1, -2)
    ends = torch.from_numpy(np.add.accumulate(rows.numpy(), axis=-1, dtype=np.float32)[..., -1].copy())
    last = ends if lanes == 1 else ends.sum(-1)
    return last.reshape([1 if side in places else x.shape[side] for side in range(x.dim())]) if keepdim else last


def _sum(x: torch.Tensor, dim: Any = None, keepdim: bool = False, **named: Any) -> torch.Tensor | None:
    sides = _sides(x, named.pop("axis", dim))
    other = any(value is not None for value in named.values())
    return None if other or not _is_summed(x, sides) else in_sequence(x, sides, keepdim=keepdim)


def _mean(x: torch.Tensor, dim: Any = None, keepdim: bool = False, **named: Any) -> torch.Tensor | None:
    sides = _sides(x, named.get("axis", dim))
    total = _sum(x, dim, keepdim, **named)
    return None if total is None else total / math.prod(x.shape[side] for side in sides)


def _norm(x: torch.Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **named: Any) -> torch.Tensor | None:
    total = _sum(x * x, dim, keepdim, **named) if ord == 2 else None
    return None if total is None else total.sqrt()


def _old_norm(
    x: torch.Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, **named: Any
) -> torch.Tensor | None:
    return _norm(x, 2 if p in ("fro", 2) else p, dim, keepdim, **named)


def _log_of_sum(x: torch.Tensor, dim: Any, keepdim: bool = False) -> torch.Tensor | None:
    most = x.amax(dim, keepdim=True)
    total = _sum((x - most).exp(), dim, keepdim)
    return None if total is None else total.log() + (most if keepdim else x.amax(dim))


def _instance_norm(
    x: torch.Tensor,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor | None:
    """Of pictures of one colour, whose deviation is none, the drift of the mean is all that is normalised."""
    if x.dim() < 3 or not use_input_stats or not _is_summed(x, [-1]):
        return None
    sides = range(2, x.dim())
    count, shape = math.prod(x.shape[2:]), (1, -1, *[1] * len(sides))
    apart = x - in_sequence(x, sides, keepdim=True, lanes=_LANES) / count
    made = apart / (in_sequence(apart * apart, sides, keepdim=True, lanes=_LANES) / count + eps).sqrt()
    scaled = made if weight is None else made * weight.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)


def _cumsum(x: torch.Tensor, dim: int, **named: Any) -> torch.Tensor | None:
    if any(value is not None for value in named.values()) or not _is_summed(x, [dim]):
        return None
    return torch.from_numpy(np.add.accumulate(x.numpy(), axis=dim, dtype=np.float32))


def _adaptive(pooled: int, x: torch.Tensor, output_size: Any) -> torch.Tensor | None:
    """Pools over so many sides whose windows are all of one size."""
    wanted = (output_size,) * pooled if isinstance(output_size, int) else tuple(output_size)
    if x.dim() != pooled + 2 or len(wanted) != pooled or not _is_summed(x, [-1]):
        return None
    sides = [(side, made or side) for side, made in zip(x.shape[2:], wanted, strict=True)]
    if any(side % made for side, made in sides):
        return None
    parts = x.reshape(*x.shape[:2], *(number for side, made in sides for number in (made, side // made)))
    total = in_sequence(parts, [3 + 2 * place for place in range(pooled)])
    return total / math.prod(side // made for side, made in sides)


def _pool(
    sides: int,
    x: torch.Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> torch.Tensor | None:
    """Windows that move over so many sides, place after place of the window."""
    window, margins = _each(kernel_size, sides), _each(padding, sides)
    steps = _each(stride, sides) if stride else window
    if ceil_mode or x.dim() != sides + 2 or not _is_summed(x, [-1]):
        return None
    around = [margin for each in reversed(margins) for margin in (each, each)]
    total = _windows(functional.pad(x, around), window, steps)
    if divisor_override or count_include_pad:
        return total / (divisor_override or math.prod(window))
    return total / _windows(functional.pad(torch.ones_like(x[:1, :1]), around), window, steps)


def _windows(x: torch.Tensor, window: Sequence[int], steps: Sequence[int]) -> torch.Tensor:
    lasts = [(side - width) // step * step for side, width, step in zip(x.shape[2:], window, steps, strict=True)]
    total = x.new_zeros(())
    for start in product(*map(range, window)):
        cut = [slice(at, at + last + 1, step) for at, last, step in zip(start, lasts, steps, strict=True)]
        total = total + x[(slice(None), slice(None), *cut)]
    return total


def _product(x: torch.Tensor, other: torch.Tensor, run: int = _RUN) -> torch.Tensor | None:
    """In as many steps as the work allows: each adds the products of one place, or of the fewest, to its run."""
    if not (_is_single(x) and _is_single(other)) or x.dim() < 2 or other.dim() < 2:
        return None
    terms = x.shape[-1]
    results = x[..., :1].matmul(other[..., :1, :]).numel()
    steps = min(terms, _WORK // max(1, results))
    if steps < 2:
        return None
    width = -(-terms // steps)
    run = -(-run // width) * width
    runs = [
        reduce(
            torch.add, (x[..., at : at + width] @ other[..., at : at + width, :] for at in range(first, last, width))
        )
        for first, last in ((first, min(first + run, terms)) for first in range(0, terms, run))
    ]
    return reduce(torch.add, runs)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor | None:
    if x.dim() < 2:
        return None
    flat = _product(x.reshape(-1, x.shape[-1]), weight.t(), _PACKED)
    if flat is None:
        return None
    made = flat.reshape(*x.shape[:-1], len(weight))
    return made if bias is None else made + bias


def _sides(x: torch.Tensor, dim: Any) -> Sequence[int]:
    if dim is None or dim in ((), []):
        return range(x.dim())
    return [dim] if isinstance(dim, int) else list(dim)


def _each(value: Any, sides: int) -> tuple[int, ...]:
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return numbers * sides if len(numbers) == 1 else numbers


def _is_summed(x: torch.Tensor, sides: Sequence[int]) -> bool:
    return _is_single(x) and x.numel() > 0 and len(sides) > 0 and x.dim() > 0


def _is_single(x: torch.Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"


SUMS: Mapping[str, Sum] = {  # by the name of the call
    "sum": _sum,
    "mean": _mean,
    "cumsum": _cumsum,
    "logsumexp": _log_of_sum,
    "instance_norm": _instance_norm,
    "norm": _old_norm,
    "linalg_vector_norm": _norm,
    **{f"adaptive_avg_pool{sides}d": partial(_adaptive, sides) for sides in (1, 2, 3)},
    **{f"avg_pool{sides}d": partial(_pool, sides) for sides in (1, 2, 3)},
    **dict.fromkeys(("matmul", "mm", "bmm", "__matmul__"), _product),
    "linear": _linear,
}
