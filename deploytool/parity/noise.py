"""Measures the numerical noise of a model: how far its answers move when only the rounding of its arithmetic changes.

The method is Monte Carlo arithmetic (D. S. Parker, "Monte Carlo arithmetic", UCLA CSD-970002, 1997): the model runs in
FP32, and the result of every call is perturbed at random by at most a rounding error. A call that becomes several ONNX
operators is run and perturbed operator by operator. The result bounds the deviation of a correct artifact that folds
batch norms or computes in FP16. One effect that random perturbation does not reproduce is measured directly: the model
with its sums in other orders, the worst of them sequential, as runtimes add.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from deploytool.backends import eager
from deploytool.backends.session import Session
from deploytool.data.golden import Arrays, Edge, Floor, Noise
from deploytool.errors import StageFailed
from deploytool.host import memory
from deploytool.loading import weights_file
from deploytool.parity import detection_rows, elementary, metrics, noise_floor, rational_sigmoid, sequential_sum
from deploytool.parity.replay import SMALL_BATCHES, replay
from deploytool.parity.rounding import BF16, FP16, NarrowRounding, Rounding, stochastic_fp32
from deploytool.results.output_parts import OutputPart
from deploytool.spec import Model, Range
from deploytool.tasks.rows import DetectionRows

_CASES = 4  # golden cases on which noise is measured: those with the largest noise
_DRAWS = 2  # runs with random rounding
_MASK, _LARGE = -1e8, 1e30  # values from here on are masks: no call rounds them
_INDICES = (torch.int64, torch.int32, torch.bool)  # types of indices and masks; others are of pixels and samples
_POSITIONAL = "_deploytool_positional"  # the attribute of tensors that are computed from such values alone
_STATISTICS = ("running_mean", "running_var")  # of batch norms: in a graph they are folded into the weights
_SELECTS = ("max_pool1d", "max_pool2d", "max_pool3d", "amax", "amin", "maximum", "minimum")
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")  # one operator with several results

# How often the error of the sequential order counts. How far sums of equal numbers drift depends on their last bits:
# with other values, which folding and rounding produce, up to half as far again; and two artifacts may both add
# sequentially and deviate in opposite directions. The error is a bound and not a random draw, so its share in a noise
# floor is divided by the margin that tolerances add for random draws.
ORDER_FACTOR = 3.0
_ORDER_SHARE = Floor(ORDER_FACTOR / metrics.MARGIN32.max_error, ORDER_FACTOR / metrics.MARGIN32.rms)

TorchInputs = Mapping[str, torch.Tensor]
Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class NoiseMeasurement:
    """The noise, and a remark for each probe run that the model does not support."""

    noise: Noise
    remarks: tuple[str, ...]


def measure(
    module: nn.Module, model: Model, inputs: Arrays, reference: Arrays, parts: Sequence[OutputPart] = ()
) -> NoiseMeasurement:
    """The noise of FP32 and of FP16 arithmetic on the golden inputs with the largest noise, against FP64 answers.

    The noise is given for each output part; parts are found in the answers unless given. Sequential sums are measured
    on all golden inputs. Noise counts for at most the size of the answers. Runs that overflow are left out, and so are
    runs that the model does not support.
    """
    probes = _ProbeRuns(module, model)
    noisiest, rows = _noisiest(probes, model, inputs, reference, FP16), detection_rows.of_model(model, reference)
    cases = _to_torch({name: array[noisiest] for name, array in inputs.items()})
    truth = {name: array[noisiest] for name, array in reference.items()}
    single = [probes.run("single-case", _case_by_case, cases), probes.run("channels-last", _channels_last, cases)]
    single += [probes.run("random FP32 rounding", _run_rounded, cases, stochastic_fp32(seed)) for seed in range(_DRAWS)]
    half = _narrow_runs(probes, cases, FP16)
    ordered = _supported([probes.run("sequential-sum", _sequential, _to_torch(inputs))], reference, rows)
    noise = noise_floor.noise(
        _supported(single, truth, rows), _supported(half, truth, rows), truth, ordered, reference, _ORDER_SHARE, parts
    )
    if rows is not None:
        swaps = [_swapped(probes, rows, inputs, reference, rounding) for rounding in (stochastic_fp32, FP16.stochastic)]
        noise = replace(noise, rows=rows, swapped32=swaps[0], swapped16=swaps[1])
    return NoiseMeasurement(noise, tuple(dict.fromkeys(probes.remarks)))


def with_bf16(measured: Noise, module: nn.Module, model: Model, inputs: Arrays, reference: Arrays) -> NoiseMeasurement:
    """The noise with that of BF16 arithmetic, measured as that of FP16 is, for the same output parts."""
    probes, rows = _ProbeRuns(module, model), measured.rows
    noisiest = _noisiest(probes, model, inputs, reference, BF16)
    cases = _to_torch({name: array[noisiest] for name, array in inputs.items()})
    truth = {name: array[noisiest] for name, array in reference.items()}
    runs = _narrow_runs(probes, cases, BF16)
    noise = noise_floor.with_bf16(measured, _supported(runs, truth, rows), truth)
    if rows is not None:
        noise = replace(noise, swapped_bf16=_swapped(probes, rows, inputs, reference, BF16.stochastic))
    return NoiseMeasurement(noise, tuple(dict.fromkeys(probes.remarks)))


def _narrow_runs(probes: _ProbeRuns, cases: TorchInputs, narrow: NarrowRounding) -> list[Arrays | None]:
    """Runs in a narrow type, rounded to nearest and at random."""
    nearest = probes.run(f"nearest {narrow.title} rounding", _run_rounded, cases, narrow.nearest)
    name = f"random {narrow.title} rounding"
    return [nearest, *(probes.run(name, _run_rounded, cases, narrow.stochastic(seed)) for seed in range(_DRAWS))]


def _swapped(
    probes: _ProbeRuns, rows: DetectionRows, inputs: Arrays, reference: Arrays, rounding: Callable[[int], Rounding]
) -> float:
    """The largest share of the rows of all golden cases that random rounding swaps.

    Swaps are rare, and the noisiest cases may have none: which rows are nearly tied has nothing to do with their noise.
    """
    cases = _to_torch(inputs)
    runs = [probes.run("random rounding", _run_rounded, cases, rounding(seed)) for seed in range(_DRAWS)]
    return detection_rows.swapped(runs, reference, rows)


def perturbed_runs(
    module: nn.Module, model: Model, narrow: NarrowRounding = FP16
) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """Runs of the model in FP32, and in a narrow type rounded to nearest and at random."""

    def unrounded(inputs: Arrays) -> Arrays:
        return _in_batches(module, model, _to_torch(inputs))

    roundings = narrow.nearest, narrow.stochastic(0)
    return (unrounded,), tuple(_rounded_run(module, model, chosen) for chosen in roundings)


def sequential_answers(session: Session, inputs: Arrays) -> Arrays:
    """The answers of a session of torch on the CPU with every sum sequential."""
    with _SequentialMode():
        return replay(session, inputs, SMALL_BATCHES)


def random_fp32_runs(module: nn.Module, model: Model) -> tuple[Run, ...]:
    """Runs of the model with random FP32 rounding; every call of a run draws other roundings."""
    return tuple(_rounded_run(module, model, stochastic_fp32(seed)) for seed in range(_DRAWS))


def _rounded_run(module: nn.Module, model: Model, rounding: Rounding) -> Run:
    return lambda inputs: _run_rounded(module, model, _to_torch(inputs), rounding)


class NoiseAtSizes:
    """Tolerances from noise measured on other inputs than the golden ones; each is measured once, when first needed.

    In BF16 too if the golden noise was.

    Longer sums accumulate larger rounding errors, and a corner of the free sizes may be larger than any golden case.
    """

    def __init__(self, weights: Path, requested: Mapping[str, float], golden: Noise) -> None:
        self._weights, self._requested, self._bf16 = weights, requested, golden.bf16 is not None
        self._parts = tuple(perturbation.part for perturbation in golden.parts)
        self._known: dict[str, metrics.Tolerances] = {}

    def __call__(self, name: str, inputs: Arrays) -> metrics.Tolerances:
        """The tolerances for the inputs of that name."""
        if name not in self._known:
            reference = self._reference(inputs)
            module, model = eager.load_module(self._weights), weights_file.definition(self._weights)
            measured = measure(module, model, inputs, reference, self._parts).noise
            if self._bf16:
                measured = with_bf16(measured, module, model, inputs, reference).noise
            self._known[name] = metrics.tolerances(measured, self._requested)
        return self._known[name]

    def _reference(self, inputs: Arrays) -> Arrays:
        """The FP64 answers; the module of their session is gone when this function ends."""
        with eager.start(self._weights, double=True) as double:
            return replay(double, inputs, SMALL_BATCHES)

    def edge(self, edge: Edge) -> metrics.Tolerances:
        """The tolerances for an edge case."""
        return self(f"the edge {edge.name}", edge.inputs)


class _ProbeRuns:
    """Runs of a model for its noise. A run that the model does not support leaves a remark: it fails no export."""

    def __init__(self, module: nn.Module, model: Model) -> None:
        self.remarks: list[str] = []
        self._module, self._model = module, model

    def run(self, name: str, probe: Callable[..., Arrays], inputs: TorchInputs, *rounding: Rounding) -> Arrays | None:
        """The answers of a run; None if the model does not support it."""
        try:
            return probe(self._module, self._model, inputs, *rounding)
        except StageFailed as error:
            self.remarks.append(f"noise is measured without the {name} run, which the model does not support: {error}")
            return None
        finally:
            memory.release_unused()


def _supported(answers: Sequence[Arrays | None], truth: Arrays, rows: DetectionRows | None) -> list[Arrays]:
    """The answers of the supported runs, aligned; without any, the truth, whose noise is zero."""
    return [detection_rows.aligned_by_most(run, truth, rows) for run in answers if run is not None] or [truth]


def _noisiest(
    probes: _ProbeRuns, model: Model, inputs: Arrays, reference: Arrays, narrow: NarrowRounding
) -> npt.NDArray[np.intp]:
    """The indices of the cases with the largest error in a narrow type, in order.

    All cases where that cannot be measured. With a fixed batch size the first cases are taken, so that they stay in
    their batch.
    """
    cases, batch = len(next(iter(inputs.values()))), model.inputs[0].shape[0]
    if isinstance(batch, int) and batch > 1:
        return np.arange(min(cases, -(-_CASES // batch) * batch))
    rounded = None
    if cases > _CASES:
        rounded = probes.run(f"nearest {narrow.title} rounding", _run_rounded, _to_torch(inputs), narrow.nearest)
    if rounded is None:
        return np.arange(cases)
    errors = metrics.rms_errors(detection_rows.aligned_for(model, rounded, reference), reference)
    return np.sort(np.argsort(errors)[-_CASES:])


def _to_torch(arrays: Arrays) -> TorchInputs:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _answers(module: nn.Module, model: Model, inputs: TorchInputs) -> dict[str, Any]:
    with eager.full_fp32():
        outputs = eager.run(module, model, {tensor.name: inputs[tensor.name] for tensor in model.inputs})
    return {tensor.name: output.numpy() for tensor, output in zip(model.outputs, outputs, strict=True)}


def _in_batches(module: nn.Module, model: Model, inputs: TorchInputs) -> Arrays:
    """The answers a few cases at a time, or in the model's batch if that is fixed."""
    batch = model.inputs[0].shape[0]
    sizes = Range(batch, batch, batch) if isinstance(batch, int) else SMALL_BATCHES
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    return replay(lambda **feeds: _answers(module, model, _to_torch(feeds)), arrays, sizes)


def _case_by_case(module: nn.Module, model: Model, inputs: TorchInputs) -> Arrays:
    """With a batch size of one, for which libraries choose other kernels, where the batch is free."""
    if isinstance(model.inputs[0].shape[0], int):
        return _answers(module, model, inputs)
    cases = range(len(next(iter(inputs.values()))))
    answers = [
        _answers(module, model, {name: tensor[case : case + 1] for name, tensor in inputs.items()}) for case in cases
    ]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def _channels_last(module: nn.Module, model: Model, inputs: TorchInputs) -> Arrays:
    """With the memory format `channels_last`, in which kernels add in another order."""
    converted = {
        name: tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
        for name, tensor in inputs.items()
    }
    return _answers(module, model, converted)


def _run_rounded(module: nn.Module, model: Model, inputs: TorchInputs, rounding: Rounding) -> Arrays:
    """With inputs, weights and the result of every call rounded; the weights are restored afterwards."""
    buffers = [buffer for name, buffer in module.named_buffers() if not name.endswith(_STATISTICS)]
    originals = [(tensor, tensor.clone()) for tensor in (*module.parameters(), *module.buffers())]
    for tensor in (*module.parameters(), *buffers):
        if _is_literal(tensor):
            _mark([tensor], positional=True)
        else:
            tensor.copy_(_apply(rounding, tensor))
    try:
        with _RoundingMode(rounding):
            return _in_batches(module, model, {name: _apply(rounding, tensor) for name, tensor in inputs.items()})
    finally:
        for tensor, original in originals:
            tensor.copy_(original)


def _sequential(module: nn.Module, model: Model, inputs: TorchInputs) -> Arrays:
    """With every sum sequential."""
    with _SequentialMode():
        return _in_batches(module, model, inputs)


class _ElementaryMode(TorchFunctionMode):
    """Intercepts every torch call, and runs a call that becomes several ONNX operators as these operators."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named, name = kwargs or {}, getattr(func, "__name__", "")
        if name in elementary.STEPS:
            with self:
                result = _call_replacement(elementary.STEPS[name], args, named)
            if result is not None:
                return args[0].copy_(result) if args and _writes(name, named) else result
        return self.result(name, func, args, named)

    def result(self, name: str, func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """The result of one elementary call, with the absolute error of the sigmoid in ONNX Runtime."""
        result = _call_replacement(rational_sigmoid.sigmoid, args, named) if name == "sigmoid" else None
        return func(*args, **named) if result is None else result


class _RoundingMode(_ElementaryMode):
    """Rounds every FP32 tensor that a torch call returns."""

    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self._rounding = rounding

    def result(self, name: str, func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """The rounded result of a call; views of an argument and selected values are rounded already.

        What is computed from sizes and integers alone is left as it is too: every artifact has the same masks and
        positions, and a rounding error in them selects another row of a table.
        """
        positional = all(map(_is_positional, _tensors((*args, *named.values()))))
        result = super().result(name, func, args, named)
        _mark(args[:1] if name == "__setitem__" or (args and _writes(name, named)) else (result,), positional)
        if positional or name in _SELECTS:
            return result
        if type(result) is tuple and name in _RECURRENT:
            return tuple(_apply(self._rounding, tensor) for tensor in result)
        rounded = _apply(self._rounding, result)
        if rounded is result or not any(_share_memory(result, value) for value in (*args, *named.values())):
            return rounded
        return result.copy_(rounded) if _writes(name, named) else result  # later calls may write through either name


def _is_literal(weight: torch.Tensor) -> bool:
    """Whether a weight is a number that the code of a model would contain, such as the 1 of 1 - mask in a given graph.

    A trained number has more digits. Every artifact has a literal as it is; rounded, the mask of no key would be 0.
    """
    return weight.numel() == 1 and weight.dtype == torch.float32 and bool((weight == weight.half().float()).all())


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """The tensors among the arguments of a call, and in its lists."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def _is_positional(tensor: torch.Tensor) -> bool:
    return tensor.dtype in _INDICES or getattr(tensor, _POSITIONAL, False)


def _mark(values: Iterable[Any], positional: bool) -> None:
    """Records on tensors whether they are computed from sizes and integers alone."""
    for tensor in _tensors(values):
        if getattr(tensor, _POSITIONAL, False) is not positional:
            setattr(tensor, _POSITIONAL, positional)


class _SequentialMode(_ElementaryMode):
    """Computes every sum of a torch call sequentially."""

    def result(self, name: str, func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """The result of a call with its sums in the worst order."""
        result = _call_replacement(sequential_sum.SUMS[name], args, named) if name in sequential_sum.SUMS else None
        return super().result(name, func, args, named) if result is None else result


def _share_memory(result: torch.Tensor, argument: Any) -> bool:
    """Whether a result is an argument or a view of it."""
    if not isinstance(argument, torch.Tensor):
        return False
    return argument.untyped_storage().data_ptr() == result.untyped_storage().data_ptr()


def _writes(name: str, named: Mapping[str, Any]) -> bool:
    """Whether a call writes its result into an argument."""
    augmented = name.startswith("__i") and name not in ("__int__", "__invert__", "__index__")
    return (name.endswith("_") and not name.endswith("__")) or augmented or bool(named.get("inplace")) or "out" in named


def _call_replacement(replacement: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """The result of our form of a call; None where the call is left to torch."""
    try:
        return replacement(*args, **named)
    except Exception:  # a signature that the replacement does not support: torch reports the error if there is one
        return None


def _apply(rounding: Rounding, value: Any) -> Any:
    """A rounded FP32 tensor, with its masks as they are: -1e9 is -1e9 in every key of a masked row, however it adds."""
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return value
    least, most = (end.item() for end in value.aminmax()) if value.numel() else (0.0, 0.0)
    if least > _MASK and most < _LARGE:
        return rounding(value)
    return torch.where((value <= _MASK) | (value >= _LARGE), value, rounding(value))
