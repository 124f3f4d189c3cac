"""The noise of a model: how far its answers move when nothing but the rounding of its arithmetic changes.

Measured by Monte Carlo arithmetic (D. S. Parker, "Monte Carlo arithmetic", UCLA CSD-970002, 1997): the model runs in
FP32, and the result of every call is moved at random by as much as rounding may move it; a call that an exported graph
has several operators for, step by step. What comes out is what an artifact may differ by that folds a batch norm, or
computes in FP16, and is nevertheless right. What random moves cannot show is measured as it is: the model with its sums
in other orders, the worst of them one number after the other, as runtimes add.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from deploytool.backends import eager
from deploytool.data.golden import Arrays, Edge, Floor, Noise
from deploytool.errors import StageFailed
from deploytool.loading import weights_file
from deploytool.parity import elementary, metrics, noise_floor, sequential_sum
from deploytool.parity.replay import FEW, replay
from deploytool.results.output_parts import OutputPart
from deploytool.spec import Model

_CASES = 4  # golden cases to measure noise on: the noisiest
_DRAWS = 2  # of the random rounding
_STEP32 = 2.0**-23  # between neighbours of FP32, relative
_LOST = 13  # bits of an FP32 mantissa that FP16 does not have
_SLACK = 4096  # random numbers beyond those of the largest tensor
_STATISTICS = ("running_mean", "running_var")  # of batch norms: what a graph has of them is folded into its weights
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")  # one operator, with several results

# How often the worst order of sums may show. How far equal numbers drift depends on their last bits: half as far again
# with others than were measured, which folding and rounding make of them; and two artifacts may add in it, each on a
# side of the truth. It is a bound, and no draw of what may come; so it counts in a floor by what the room for draws
# makes of it.
_ORDERED = 3.0
_SHARE = Floor(_ORDERED / metrics.ROOM32.max_error, _ORDERED / metrics.ROOM32.rms)

Rounding = Callable[[torch.Tensor], torch.Tensor]
Given = Mapping[str, torch.Tensor]
Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class NoiseMeasurement:
    """The noise, and a line for each probe that the model cannot take."""

    noise: Noise
    remarks: tuple[str, ...]


def measure(
    module: nn.Module, model: Model, inputs: Arrays, reference: Arrays, parts: Sequence[OutputPart] = ()
) -> NoiseMeasurement:
    """The noise of FP32 and of FP16 arithmetic on the noisiest golden inputs, against the FP64 answers to them.

    Of each part of the answers, which is found if none are given. Sums are added one after the other on all golden
    inputs. Noise never counts for more than the answers themselves. An overflow is no noise: its run is left out. So is
    a probe that the model cannot take.
    """
    probes = _Probes(module, model)
    noisiest = _noisiest(probes, model, inputs, reference)
    few = _torched({name: array[noisiest] for name, array in inputs.items()})
    truth = {name: array[noisiest] for name, array in reference.items()}
    single = [probes.of("one case at a time", _alone, few), probes.of("channels last", _channels_last, few)]
    single += [probes.of("FP32 rounded at random", _rounded, few, _moved(draw)) for draw in range(_DRAWS)]
    half = [probes.of("FP16 rounded to nearest", _rounded, few, _nearest)]
    half += [probes.of("FP16 rounded at random", _rounded, few, _either(draw)) for draw in range(_DRAWS)]
    order = _able([probes.of("sums one after the other", _in_order, _torched(inputs))], reference)
    found = noise_floor.noise(_able(single, truth), _able(half, truth), truth, order, reference, _SHARE, parts)
    return NoiseMeasurement(found, tuple(dict.fromkeys(probes.remarks)))


def perturbed_runs(module: nn.Module, model: Model) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """The model as rounding moves it, in FP32 and in FP16: its answers to any inputs, which FP32 has as they are."""

    def rounded(rounding: Rounding) -> Run:
        return lambda inputs: _rounded(module, model, _torched(inputs), rounding)

    def plain(inputs: Arrays) -> Arrays:
        return _answers(module, model, _torched(inputs))

    return (plain,), (rounded(_nearest), rounded(_either(0)))


class NoiseAtSizes:
    """What the noise of a model lets pass at other inputs than the golden ones, measured once, where it is asked for.

    Sums over more places drift further: a corner of the free sizes may be larger than any golden case.
    """

    def __init__(self, weights: Path, wanted: Mapping[str, float], golden: Noise) -> None:
        self._weights, self._wanted = weights, wanted
        self._parts = tuple(each.part for each in golden.parts)
        self._known: dict[str, metrics.Tolerances] = {}

    def __call__(self, name: str, inputs: Arrays) -> metrics.Tolerances:
        """The tolerances at the inputs of that name."""
        if name not in self._known:
            with eager.start(self._weights, double=True) as double:
                reference = replay(double, inputs, FEW)
            module, model = eager.load_module(self._weights), weights_file.definition(self._weights)
            found = measure(module, model, inputs, reference, self._parts)
            self._known[name] = metrics.tolerances(found.noise, self._wanted)
        return self._known[name]

    def edge(self, edge: Edge) -> metrics.Tolerances:
        """The tolerances at an edge."""
        return self(f"the edge {edge.name}", edge.inputs)


class _Probes:
    """Runs of a model for its noise; one that it cannot take leaves a remark, for it is ours and not the user's."""

    def __init__(self, module: nn.Module, model: Model) -> None:
        self.remarks: list[str] = []
        self._module, self._model = module, model

    def of(self, name: str, probe: Callable[..., Arrays], given: Given, *how: Rounding) -> Arrays | None:
        """The answers of a run, None if there are none."""
        try:
            return probe(self._module, self._model, given, *how)
        except StageFailed as error:
            self.remarks.append(f"noise without the run of {name}, which the model does not take: {error}")
            return None


def _able(answers: Sequence[Arrays | None], truth: Arrays) -> list[Arrays]:
    """The answers that there are; where there are none the truth, which has no noise."""
    return [each for each in answers if each is not None] or [truth]


def _noisiest(probes: _Probes, model: Model, inputs: Arrays, reference: Arrays) -> npt.NDArray[np.intp]:
    """The cases to measure on, in their order: all, where there are few, or nobody knows which move most.

    Where a model takes batches of one size alone, its cases stay in theirs: the first of them.
    """
    cases, batch = len(next(iter(inputs.values()))), model.inputs[0].shape[0]
    if isinstance(batch, int) and batch > 1:
        return np.arange(min(cases, -(-_CASES // batch) * batch))
    moved = None
    if cases > _CASES:
        moved = probes.of("FP16 rounded to nearest", _rounded, _torched(inputs), _nearest)
    if moved is None:
        return np.arange(cases)
    return np.sort(np.argsort(metrics.rms_errors(moved, reference))[-_CASES:])


def _torched(arrays: Arrays) -> Given:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _answers(module: nn.Module, model: Model, given: Given) -> dict[str, Any]:
    with eager.full_fp32():
        outputs = eager.run(module, model, {tensor.name: given[tensor.name] for tensor in model.inputs})
    return {tensor.name: output.numpy() for tensor, output in zip(model.outputs, outputs, strict=True)}


def _alone(module: nn.Module, model: Model, given: Given) -> Arrays:
    """Case by case: libraries choose other kernels for other batches, where the model takes others."""
    if isinstance(model.inputs[0].shape[0], int):
        return _answers(module, model, given)
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
    tables = [each for name, each in module.named_buffers() if not name.endswith(_STATISTICS)]
    kept = [(tensor, tensor.clone()) for tensor in (*module.parameters(), *module.buffers())]
    for tensor in (*module.parameters(), *tables):
        tensor.copy_(_applied(rounding, tensor))
    try:
        with _Rounding(rounding):
            return _answers(module, model, {name: _applied(rounding, tensor) for name, tensor in given.items()})
    finally:
        for tensor, value in kept:
            tensor.copy_(value)


def _in_order(module: nn.Module, model: Model, given: Given) -> Arrays:
    """With every sum added one number after the other, a few cases at a time."""
    cases = len(next(iter(given.values())))
    with _InOrder():
        parts = [
            _answers(module, model, {name: tensor[start : start + _CASES] for name, tensor in given.items()})
            for start in range(0, cases, _CASES)
        ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class _Elementary(TorchFunctionMode):
    """Hears every call of torch, and those that an exported graph has several operators for step by step."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named, name = kwargs or {}, getattr(func, "__name__", "")
        if name in elementary.STEPS:
            with self:
                made = _replaced(elementary.STEPS[name], args, named)
            if made is not None:
                return args[0].copy_(made) if args and _writes(name, named) else made
        return self.result(name, func, args, named)

    def result(self, name: str, func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """What a call gives."""
        return func(*args, **named)


class _Rounding(_Elementary):
    """Rounds every FP32 tensor that a call of torch gives."""

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self._rounding = rounding

    def result(self, name: str, func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """What a call gives, rounded; the parts of a tensor were rounded with it."""
        made = func(*args, **named)
        if type(made) is tuple and name in _RECURRENT:
            return tuple(_applied(self._rounding, each) for each in made)
        rounded = _applied(self._rounding, made)
        if rounded is made or not any(_share(made, each) for each in (*args, *named.values())):
            return rounded
        return made.copy_(rounded) if _writes(name, named) else made  # later calls may write through either name


class _InOrder(_Elementary):
    """Adds one number after the other wherever a call of torch adds."""

    def result(self, name: str, func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """What a call gives, in the worst order of its sums."""
        made = _replaced(sequential_sum.SUMS[name], args, named) if name in sequential_sum.SUMS else None
        return func(*args, **named) if made is None else made


def _share(made: torch.Tensor, given: Any) -> bool:
    """Whether a result lies in the memory of what was given: it is a part of that, or that itself."""
    return isinstance(given, torch.Tensor) and given.untyped_storage().data_ptr() == made.untyped_storage().data_ptr()


def _writes(name: str, named: Mapping[str, Any]) -> bool:
    """Whether a call writes what it gives into a tensor that it was given."""
    augmented = name.startswith("__i") and name not in ("__int__", "__invert__", "__index__")
    return (name.endswith("_") and not name.endswith("__")) or augmented or bool(named.get("inplace")) or "out" in named


def _replaced(ours: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """What our form of a call gives; None where the call is left to torch."""
    try:
        return ours(*args, **named)
    except Exception:  # called in a way that ours does not foresee: torch says what is wrong, if anything is
        return None


def _applied(rounding: Rounding, value: Any) -> Any:
    return rounding(value) if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value


def _nearest(value: torch.Tensor) -> torch.Tensor:
    """To the nearest FP16 number: subnormals, underflow and overflow are FP16's."""
    return value.half().float()


def _either(seed: int) -> Rounding:
    """To FP16's 11 bits, up or down at random, the more likely the nearer; the range stays FP32's."""
    drawn = _Drawn(seed, lambda size, how: torch.randint(1 << _LOST, (size,), generator=how, dtype=torch.int32))

    def rounding(value: torch.Tensor) -> torch.Tensor:
        bits = value.contiguous().view(torch.int32) + drawn(value.shape)
        return (bits >> _LOST << _LOST).view(torch.float32)

    return rounding


def _moved(seed: int) -> Rounding:
    """To an FP32 neighbour at random, or not at all."""
    drawn = _Drawn(seed, lambda size, how: (torch.rand(size, generator=how) - 0.5) * 2 * _STEP32)
    return lambda value: torch.addcmul(value, value, drawn(value.shape))


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
