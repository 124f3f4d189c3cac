"""Records every tensor that the source model computes: its FP64 values, its module and its FP32 and FP16 noise."""

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

from deploytool.backends import eager
from deploytool.blame.reference_tensor import ReferenceTensor, relative_error
from deploytool.data.golden import Arrays
from deploytool.host import fp16_rounding
from deploytool.loading import weights_file
from deploytool.spec import Model

Rounding = Callable[[torch.Tensor], torch.Tensor]
Recorded = list[tuple[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class TorchTrace:
    """The names of all modules of a model, its inputs, and the results of its PyTorch calls in order."""

    modules: frozenset[str]
    inputs: tuple[ReferenceTensor, ...]
    calls: tuple[ReferenceTensor, ...]


def trace(weights: Path, inputs: Arrays) -> TorchTrace:
    """Runs the model in FP64, and three more times to measure the noise: in FP32, and twice with rounding to FP16.

    The FP16 noise is the error of FP64 arithmetic whose weights and results are rounded to FP16 at every call: the
    larger one of rounding to nearest and of random rounding. A call with the same result as an earlier one (dropout in
    evaluation mode) is left out. The noise is at most 1.
    """
    module, model = eager.load_module(weights), weights_file.definition(weights)
    single = _record(module, model, inputs)
    exact = _record(module.double(), model, inputs, double=True)
    for weight in module.parameters():
        weight.copy_(weight.half())
    half = [
        _record(module, model, inputs, double=True, rounding=rounding) for rounding in (_round_nearest, _round_random)
    ]
    calls: dict[str, ReferenceTensor] = {}
    for (path, values), *rounded in zip(exact, single, *half, strict=True):
        noise32, *noises16 = (min(1.0, relative_error(result, values)) for _, result in rounded)
        digest = hashlib.sha256(values.tobytes() + repr(values.shape).encode()).hexdigest()
        calls.setdefault(digest, ReferenceTensor("", path, values, noise32, max(noises16)))
    names = frozenset(name for name, _ in module.named_modules())
    return TorchTrace(names, _input_references(inputs), tuple(calls.values()))


def _round_nearest(values: torch.Tensor) -> torch.Tensor:
    """Rounds to the nearest FP16 number."""
    return values.half()


def _round_random(values: torch.Tensor) -> torch.Tensor:
    """Rounds to one of the two adjacent FP16 numbers at random: a single rounding can be exact by chance."""
    random = torch.rand(values.shape, generator=torch.Generator().manual_seed(values.numel()), dtype=values.dtype)
    return (values * (1 + (random - 0.5) * 2.0**-10)).half()


def _input_references(inputs: Arrays) -> tuple[ReferenceTensor, ...]:
    """The floating-point inputs; their only noise is that of rounding them to FP16."""
    floats = {name: array for name, array in inputs.items() if array.dtype.kind == "f"}
    return tuple(
        ReferenceTensor(name, "", array, 0.0, relative_error(fp16_rounding.nearest(array), array))
        for name, array in floats.items()
    )


def _record(
    module: nn.Module, model: Model, inputs: Arrays, double: bool = False, rounding: Rounding | None = None
) -> Recorded:
    """The results of every call in one run of the module."""
    tensors = {tensor.name: torch.from_numpy(inputs[tensor.name]) for tensor in model.inputs}
    recorder = _Recorder(module, rounding)
    with eager.full_fp32(), recorder:
        eager.run(module, model, tensors, double)
    return recorder.results


class _Recorder(TorchFunctionMode):
    """Copies every floating-point tensor that a call returns, with the name of the innermost running module."""

    def __init__(self, module: nn.Module, rounding: Rounding | None) -> None:
        super().__init__()
        self.results: Recorded = []
        self._rounding = rounding
        self._running: list[str] = []
        self._hooks = [
            hook
            for name, submodule in module.named_modules()
            for hook in (
                submodule.register_forward_pre_hook(partial(self._enter, name)),
                submodule.register_forward_hook(self._leave),
            )
        ]

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]  # torch gives it no types
        for hook in self._hooks:
            hook.remove()

    def _enter(self, name: str, *_: object) -> None:
        self._running.append(name)

    def _leave(self, *_: object) -> None:
        self._running.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, (tuple, list)) and any(isinstance(item, torch.Tensor) for item in result):
            return type(result)(map(self._record, result)) if type(result) in (tuple, list) else result
        return self._record(result)

    def _record(self, result: Any) -> Any:
        if not self._running or not isinstance(result, torch.Tensor) or not result.is_floating_point():
            return result
        rounded = result if self._rounding is None else self._rounding(result)
        self.results.append((self._running[-1], rounded.clone(memory_format=torch.contiguous_format).numpy()))
        return rounded.to(result.dtype)
