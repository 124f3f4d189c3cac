"""Sequential FP32 sums: replacements of torch calls that add in the worst order that a runtime uses.

PyTorch adds pairwise, so that its error hardly grows with the number of terms. ONNX Runtime's GlobalAveragePool of
whole blocks of channels, and its ReduceMean along the outer axes, add sequentially. Where the terms are equal, as in an
image of one colour, every step is rounded in the same direction and the sum drifts: relative error 4e-7 for 64 terms,
4e-5 for 4,096. Its matrix product adds up to 1,024 terms sequentially, or 256 if a factor is a packed weight, and then
adds these partial sums; its InstanceNormalization adds in eight parallel sums. Softmax, LayerNormalization and
convolutions are as exact there as in PyTorch, and are not replaced.
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

_LANES = 8  # parallel sums in ONNX Runtime's InstanceNormalization
_RUN, _PACKED_RUN = 1024, 256  # terms that its matrix product adds sequentially, of tensors and of packed weights
_MAX_WRITES = 1 << 23  # elements that a matrix product may write over all its steps: some hundredths of a second

Sum = Callable[..., torch.Tensor | None]  # has the arguments of the call; None where the call is left to PyTorch


def in_sequence(x: torch.Tensor, sides: Sequence[int], *, keepdim: bool = False, lanes: int = 1) -> torch.Tensor:
    """The FP32 sum over the dimensions `sides`, sequential in memory order.

    With `lanes` > 1 there are that many parallel sums, which are added at the end.
    """
    summed = sorted(side % x.dim() for side in sides)
    rest = [side for side in range(x.dim()) if side not in summed]
    rows = x.permute(*rest, *summed).reshape(*(x.shape[side] for side in rest), -1)
    if lanes > 1:
        filled = functional.pad(rows, (0, -rows.shape[-1] % lanes))
        rows = filled.reshape(*filled.shape[:-1], -1, lanes).transpose(-1, -2)
    partial_sums = torch.from_numpy(np.add.accumulate(rows.numpy(), axis=-1, dtype=np.float32)[..., -1].copy())
    total = partial_sums if lanes == 1 else partial_sums.sum(-1)
    return total.reshape([1 if side in summed else x.shape[side] for side in range(x.dim())]) if keepdim else total


def _sum(x: torch.Tensor, dim: Any = None, keepdim: bool = False, **named: Any) -> torch.Tensor | None:
    sides = _sides(x, named.pop("axis", dim))
    unsupported = any(value is not None for value in named.values())
    return None if unsupported or not _is_summed(x, sides) else in_sequence(x, sides, keepdim=keepdim)


def _mean(x: torch.Tensor, dim: Any = None, keepdim: bool = False, **named: Any) -> torch.Tensor | None:
    sides = _sides(x, named.get("axis", dim))
    total = _sum(x, dim, keepdim, **named)
    return None if total is None else total / math.prod(x.shape[side] for side in sides)


def _norm(x: torch.Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **named: Any) -> torch.Tensor | None:
    total = _sum(x * x, dim, keepdim, **named) if ord == 2 else None
    return None if total is None else total.sqrt()


def _frobenius_norm(
    x: torch.Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, **named: Any
) -> torch.Tensor | None:
    return _norm(x, 2 if p in ("fro", 2) else p, dim, keepdim, **named)


def _logsumexp(x: torch.Tensor, dim: Any, keepdim: bool = False) -> torch.Tensor | None:
    largest = x.amax(dim, keepdim=True)
    total = _sum((x - largest).exp(), dim, keepdim)
    return None if total is None else total.log() + (largest if keepdim else x.amax(dim))


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
    """In an image of one colour the deviation is zero, and the drift of the mean is all that gets normalised."""
    if x.dim() < 3 or not use_input_stats or not _is_summed(x, [-1]):
        return None
    sides = range(2, x.dim())
    count, shape = math.prod(x.shape[2:]), (1, -1, *[1] * len(sides))
    centred = x - in_sequence(x, sides, keepdim=True, lanes=_LANES) / count
    normal = centred / (in_sequence(centred * centred, sides, keepdim=True, lanes=_LANES) / count + eps).sqrt()
    scaled = normal if weight is None else normal * weight.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)


def _cumsum(x: torch.Tensor, dim: int, **named: Any) -> torch.Tensor | None:
    if any(value is not None for value in named.values()) or not _is_summed(x, [dim]):
        return None
    return torch.from_numpy(np.add.accumulate(x.numpy(), axis=dim, dtype=np.float32))


def _adaptive(pooled: int, x: torch.Tensor, output_size: Any) -> torch.Tensor | None:
    """Adaptive average pooling over `pooled` dimensions, where all windows have one size."""
    requested = (output_size,) * pooled if isinstance(output_size, int) else tuple(output_size)
    if x.dim() != pooled + 2 or len(requested) != pooled or not _is_summed(x, [-1]):
        return None
    sides = [(side, windows or side) for side, windows in zip(x.shape[2:], requested, strict=True)]
    if any(side % windows for side, windows in sides):
        return None
    blocks = x.reshape(*x.shape[:2], *(number for side, windows in sides for number in (windows, side // windows)))
    total = in_sequence(blocks, [3 + 2 * dim for dim in range(pooled)])
    return total / math.prod(side // windows for side, windows in sides)


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
    """Average pooling over `sides` dimensions, which adds the positions of the window one after the other."""
    window, margins = _per_side(kernel_size, sides), _per_side(padding, sides)
    steps = _per_side(stride, sides) if stride else window
    if ceil_mode or x.dim() != sides + 2 or not _is_summed(x, [-1]):
        return None
    around = [margin for margin in reversed(margins) for _ in range(2)]
    total = _windows(functional.pad(x, around), window, steps)
    if divisor_override or count_include_pad:
        return total / (divisor_override or math.prod(window))
    return total / _windows(functional.pad(torch.ones_like(x[:1, :1]), around), window, steps)


def _windows(x: torch.Tensor, window: Sequence[int], steps: Sequence[int]) -> torch.Tensor:
    """The sum of each window."""
    lasts = [(side - width) // step * step for side, width, step in zip(x.shape[2:], window, steps, strict=True)]
    total = x.new_zeros(())
    for start in product(*map(range, window)):
        cut = [slice(at, at + last + 1, step) for at, last, step in zip(start, lasts, steps, strict=True)]
        total = total + x[(slice(None), slice(None), *cut)]
    return total


def _product(x: torch.Tensor, other: torch.Tensor, run: int = _RUN) -> torch.Tensor | None:
    """A matrix product whose terms are added sequentially in runs of about `run` terms.

    A step adds the products of one term, or of as few terms as `_MAX_WRITES` allows.
    """
    if not (_is_fp32(x) and _is_fp32(other)) or x.dim() < 2 or other.dim() < 2:
        return None
    terms = x.shape[-1]
    results = x[..., :1].matmul(other[..., :1, :]).numel()
    steps = min(terms, _MAX_WRITES // max(1, results))
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
    flat = _product(x.reshape(-1, x.shape[-1]), weight.t(), _PACKED_RUN)
    if flat is None:
        return None
    product = flat.reshape(*x.shape[:-1], len(weight))
    return product if bias is None else product + bias


def _sides(x: torch.Tensor, dim: Any) -> Sequence[int]:
    if dim is None or dim in ((), []):
        return range(x.dim())
    return [dim] if isinstance(dim, int) else list(dim)


def _per_side(value: Any, sides: int) -> tuple[int, ...]:
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return numbers * sides if len(numbers) == 1 else numbers


def _is_summed(x: torch.Tensor, sides: Sequence[int]) -> bool:
    return _is_fp32(x) and x.numel() > 0 and len(sides) > 0 and x.dim() > 0


def _is_fp32(x: torch.Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"


SUMS: Mapping[str, Sum] = {  # by the name of the torch call
    "sum": _sum,
    "mean": _mean,
    "cumsum": _cumsum,
    "logsumexp": _logsumexp,
    "instance_norm": _instance_norm,
    "norm": _frobenius_norm,
    "linalg_vector_norm": _norm,
    **{f"adaptive_avg_pool{sides}d": partial(_adaptive, sides) for sides in (1, 2, 3)},
    **{f"avg_pool{sides}d": partial(_pool, sides) for sides in (1, 2, 3)},
    **dict.fromkeys(("matmul", "mm", "bmm", "__matmul__"), _product),
    "linear": _linear,
}
