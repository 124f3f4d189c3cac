"""The noise of a model: how far its answers move when nothing but the rounding of its arithmetic changes.

Measured by Monte Carlo arithmetic (D. S. Parker, "Monte Carlo arithmetic", UCLA CSD-970002, 1997): the model runs in
FP32, and the result of every call is moved at random by as much as rounding may move it. What comes out is what an
artifact may differ by that sums in another order, folds a batch norm, or computes in FP16, and is nevertheless right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from deploytool.backends import eager
from deploytool.golden import Arrays, Floor, Noise
from deploytool.measure import parity
from deploytool.spec import Model

_CASES = 4  # golden cases to measure noise on: the noisiest
_DRAWS = 2  # of the random rounding
_STEP32 = 2.0**-23  # between neighbours of FP32, relative
_LOST = 13  # bits of an FP32 mantissa that FP16 does not have
_SLACK = 4096  # random numbers beyond those of the largest tensor

# calls that add many numbers, which libraries do in different orders: one after the other is the worst
_SUMS = ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool2d", "mean", "sum")
_FEW = 64  # numbers whose sum is as good in any order: what the order does to so many, any tolerance has room for

Rounding = Callable[[torch.Tensor, float], torch.Tensor]  # `terms` too many numbers were added to each of a result
Given = Mapping[str, torch.Tensor]


def measure(module: nn.Module, model: Model, inputs: Arrays, reference: Arrays) -> Noise:
    """The noise of FP32 and of FP16 arithmetic on the noisiest golden inputs, against the FP64 answers to them.

    It never counts for more than the answers themselves. An overflow is no noise: its run is left out.
    """
    noisiest = _noisiest(module, model, inputs, reference)
    few = {name: torch.from_numpy(array[noisiest]) for name, array in inputs.items()}
    truth = {name: array[noisiest] for name, array in reference.items()}
    single = [_alone(module, model, few), _channels_last(module, model, few)]
    single += [_rounded(module, model, few, _moved(draw)) for draw in range(_DRAWS)]
    half = [_rounded(module, model, few, _nearest)]
    half += [_rounded(module, model, few, _either(draw)) for draw in range(_DRAWS)]
    return Noise(_floor(single, truth), _floor(half, truth))


def _noisiest(module: nn.Module, model: Model, inputs: Arrays, reference: Arrays) -> npt.NDArray[np.intp]:
    """The cases to measure on, in their order: all, where there are few."""
    cases = len(next(iter(inputs.values())))
    if cases <= _CASES:
        return np.arange(cases)
    return np.sort(np.argsort(each(module, model, inputs, reference))[-_CASES:])


def each(module: nn.Module, model: Model, inputs: Arrays, truth: Arrays) -> npt.NDArray[np.float64]:
    """How far FP16 arithmetic moves the answer to each case: root mean squares, relative to those of the answer."""
    given = {name: torch.from_numpy(array) for name, array in inputs.items()}
    return parity.deviations(_rounded(module, model, given, _nearest), truth)


def _floor(answers: Sequence[Arrays], truth: Arrays) -> Floor:
    compared = [parity.compare(each, truth) for each in answers]
    found = [each for each in compared if not each.bad] or compared
    largest, rms = max(each.max_error for each in found), max(10 ** (-each.snr_db / 20) for each in found)
    return Floor(min(largest, 1.0), min(rms, 1.0))


def _answers(module: nn.Module, model: Model, given: Given) -> dict[str, Any]:
    with eager.exact():
        outputs = eager.run(module, model, {tensor.name: given[tensor.name] for tensor in model.inputs})
    return {tensor.name: output.numpy() for tensor, output in zip(model.outputs, outputs, strict=True)}


def _alone(module: nn.Module, model: Model, given: Given) -> Arrays:
    """Case by case: libraries choose other kernels for other batches."""
    cases = range(len(next(iter(given.values()))))
    each = [
        _answers(module, model, {name: tensor[case : case + 1] for name, tensor in given.items()}) for case in cases
    ]
    return {name: np.concatenate([one[name] for one in each]) for name in each[0]}


def _channels_last(module: nn.Module, model: Model, given: Given) -> Arrays:
    """With the channels of images innermost, so that sums run in another order."""
    turned = {
        name: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
        for name, tensor in given.items()
    }
    return _answers(module, model, turned)


def _rounded(module: nn.Module, model: Model, given: Given, rounding: Rounding) -> Arrays:
    """With inputs, weights and the result of every call rounded."""
    state = {name: value.clone() for name, value in module.state_dict().items()}
    for weight in module.parameters():
        weight.copy_(_applied(rounding, weight))
    try:
        with _Rounding(rounding):
            return _answers(module, model, {name: _applied(rounding, tensor) for name, tensor in given.items()})
    finally:
        module.load_state_dict(state)


class _Rounding(TorchFunctionMode):
    """Rounds every FP32 tensor that a call of torch gives."""

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self._rounding = rounding

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        return _applied(self._rounding, made, _terms(func, args, made))


def _terms(func: Callable[..., Any], args: Sequence[Any], made: Any) -> float:
    """How many times too many numbers were added to each of a result."""
    if getattr(func, "__name__", "") not in _SUMS or not args or not isinstance(args[0], torch.Tensor):
        return 1.0
    terms: float = args[0].numel() / max(1, made.numel())
    return max(1.0, terms / _FEW)


def _applied(rounding: Rounding, value: Any, terms: float = 1.0) -> Any:
    return rounding(value, terms) if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value


def _nearest(value: torch.Tensor, terms: float) -> torch.Tensor:
    """To the nearest FP16 number: subnormals, underflow and overflow are FP16's."""
    return value.half().float()


def _either(seed: int) -> Rounding:
    """To FP16's 11 bits, up or down at random, the more likely the nearer; the range stays FP32's."""
    drawn = _Drawn(seed, lambda size, how: torch.randint(1 << _LOST, (size,), generator=how, dtype=torch.int32))

    def rounding(value: torch.Tensor, terms: float) -> torch.Tensor:
        bits = value.contiguous().view(torch.int32) + drawn(value.shape)
        return (bits >> _LOST << _LOST).view(torch.float32)

    return rounding


def _moved(seed: int) -> Rounding:
    """To an FP32 neighbour at random, or not at all; where many numbers were added, further by how many."""
    drawn = _Drawn(seed, lambda size, how: (torch.rand(size, generator=how) - 0.5) * 2 * _STEP32)
    return lambda value, terms: torch.addcmul(value, value, drawn(value.shape), value=terms)


class _Drawn:
    """Random numbers, drawn once and handed out from a place that moves: drawing them anew would take longest."""

    def __init__(self, seed: int, draw: Callable[[int, torch.Generator], torch.Tensor]) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._draw = draw
        self._drawn = draw(_SLACK, self._generator)

    def __call__(self, shape: torch.Size) -> torch.Tensor:
        if self._drawn.numel() < shape.numel() + _SLACK:
            self._drawn = self._draw(shape.numel() + _SLACK, self._generator)
        start = int(torch.randint(_SLACK, (), generator=self._generator))
        return self._drawn[start : start + shape.numel()].view(shape)
