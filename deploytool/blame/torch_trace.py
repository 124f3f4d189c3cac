"""Listens to the source model: every tensor that a call of PyTorch makes, in FP64, with its module and its noise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from deploytool import fp16_rounding
from deploytool.backends import eager
from deploytool.blame.reference_tensor import ReferenceTensor, relative_error
from deploytool.data.golden import Arrays
from deploytool.loading import weights_file
from deploytool.spec import Model

Rounding = Callable[[torch.Tensor], torch.Tensor]
Recorded = list[tuple[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class TorchTrace:
    """The names of all its modules, what it was given, and what its calls made of that, in their order."""

    modules: frozenset[str]
    inputs: tuple[ReferenceTensor, ...]
    calls: tuple[ReferenceTensor, ...]


def trace(weights: Path, inputs: Arrays) -> TorchTrace:
    """Runs the model on `inputs` in FP64, and three times more to measure the noise: in FP32, and rounding to FP16.

    The FP16 noise is that of FP64 arithmetic whose weights and results are rounded to FP16 at every call, the larger of
    what rounding to the nearest number and rounding at random make. A call that gives what an earlier one gave already
    (a dropout at rest) is not heard. Noise is never larger than the values.
    """
    module, model = eager.load_module(weights), weights_file.definition(weights)
    single = _heard(module, model, inputs)
    exact = _heard(module.double(), model, inputs, double=True)
    for weight in module.parameters():
        weight.copy_(weight.half())
    half = [_heard(module, model, inputs, double=True, rounding=each) for each in (_nearest, _either)]
    calls: dict[str, ReferenceTensor] = {}
    for (path, values), *rough in zip(exact, single, *half, strict=True):
        noise32, *halves = (min(1.0, relative_error(other, values)) for _, other in rough)
        noise16 = max(halves)
        made = hashlib.sha256(values.tobytes() + repr(values.shape).encode()).hexdigest()
        calls.setdefault(made, ReferenceTensor("", path, values, noise32, noise16))
    return TorchTrace(frozenset(name for name, _ in module.named_modules()), _given(inputs), tuple(calls.values()))


def _nearest(values: torch.Tensor) -> torch.Tensor:
    """To the nearest FP16 number."""
    return values.half()


def _either(values: torch.Tensor) -> torch.Tensor:
    """To one of the two FP16 numbers beside, at random: one rounding alone may by chance end near the truth."""
    drawn = torch.rand(values.shape, generator=torch.Generator().manual_seed(values.numel()), dtype=values.dtype)
    return (values * (1 + (drawn - 0.5) * 2.0**-10)).half()


def _given(inputs: Arrays) -> tuple[ReferenceTensor, ...]:
    """The floating-point inputs, which have only the noise of being rounded."""
    floats = {name: array for name, array in inputs.items() if array.dtype.kind == "f"}
    return tuple(
        ReferenceTensor(name, "", array, 0.0, relative_error(fp16_rounding.nearest(array), array))
        for name, array in floats.items()
    )


def _heard(
    module: nn.Module, model: Model, inputs: Arrays, double: bool = False, rounding: Rounding | None = None
) -> Recorded:
    """What one run of the module makes, call by call."""
    given = {tensor.name: torch.from_numpy(inputs[tensor.name]) for tensor in model.inputs}
    listener = _Listener(module, rounding)
    with eager.full_fp32(), listener:
        eager.run(module, model, given, double)
    return listener.heard


class _Listener(TorchFunctionMode):
    """Keeps a copy of every floating-point tensor a call gives, with the innermost module that was running."""

    def __init__(self, module: nn.Module, rounding: Rounding | None) -> None:
        super().__init__()
        self.heard: Recorded = []
        self._rounding = rounding
        self._inside: list[str] = []
        self._hooks = [
            hook
            for name, part in module.named_modules()
            for hook in (
                part.register_forward_pre_hook(partial(self._enter, name)),
                part.register_forward_hook(self._leave),
            )
        ]

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]  # torch gives it no types
        for hook in self._hooks:
            hook.remove()

    def _enter(self, name: str, *_: object) -> None:
        self._inside.append(name)

    def _leave(self, *_: object) -> None:
        self._inside.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, (tuple, list)) and any(isinstance(each, torch.Tensor) for each in made):
            return type(made)(map(self._hear, made)) if type(made) in (tuple, list) else made
        return self._hear(made)

    def _hear(self, made: Any) -> Any:
        if not self._inside or not isinstance(made, torch.Tensor) or not made.is_floating_point():
            return made
        rounded = made if self._rounding is None else self._rounding(made)
        self.heard.append((self._inside[-1], rounded.clone(memory_format=torch.contiguous_format).numpy()))
        return rounded.to(made.dtype)
