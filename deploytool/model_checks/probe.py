"""Probes a model before anything is made of it: what it answers with, whether it is pure, and which batches it takes.

Nothing is assumed. A model may write into its inputs, keep state, mix the cases of a batch or take one batch alone: it
is asked, in several orders, and what it does is said in one line. Only what no file could be right about is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deploytool.backends import eager
from deploytool.data import inputs_file, synthetic
from deploytool.data.golden import Arrays
from deploytool.errors import BadInput, StageFailed
from deploytool.loading.module import state
from deploytool.loading.module.exportable import select_outputs
from deploytool.model_checks import dataflow, source_lines
from deploytool.spec import BATCH, DTYPES, Model, Options, Tensor

_MIXED64, _MIXED32 = 1e-6, 1e-3  # of the largest value: far beyond rounding in FP64, and in FP32
_CASES = 64  # of a file of inputs that are tried at most
_STATISTICS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

Weights = Mapping[str, torch.Tensor]
Answered = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class ProbeResult:
    """The model with its outputs, its batch a number where it takes no other, and what one should know of it."""

    model: Model
    remarks: tuple[str, ...]


def describe(module: nn.Module, model: Model, options: Options) -> ProbeResult:
    """The model with its outputs as they are: their number, types and sizes, and which of these are free."""
    return _described(lambda: module, model, options, None)[0]


def examine(model: Model, weights: Weights, options: Options) -> ProbeResult:
    """What `describe` finds, of a model nobody knows, and whether files can be right about it.

    With one batch size asked for, a model that takes no other is described with its batch fixed. Raises StageFailed if
    it draws random numbers, if its answer depends on earlier calls, or if the cases of a batch change one another's.
    """
    mixed = None
    try:
        found = _examined(model, weights, options, None)
        mixed = problem = _mixing(found.model, weights, options)
    except StageFailed as failure:
        problem = _of_statistics(model, weights, options) or failure
    if problem is None:
        return found
    if options.fixed_batch is not None:
        found = _examined(model, weights, options, options.fixed_batch)
        remark = f"{model.name} takes no batch but {options.fixed_batch}: exported with that batch"
        return replace(found, remarks=(*found.remarks, remark))
    if mixed is None and _takes_one(model, weights, options):
        raise StageFailed(str(problem), "let it take any batch, or export it for one alone: --batch 1") from problem
    raise problem


def _takes_one(model: Model, weights: Weights, options: Options) -> bool:
    try:
        _examined(model, weights, options, 1)
    except (StageFailed, BadInput):
        return False
    return True


def _examined(model: Model, weights: Weights, options: Options, size: int | None) -> ProbeResult:
    module, wanted = eager.load_state(model, weights), _with_batch(model, size)
    before = state.snapshot(module)
    try:
        found, first = _described(lambda: module, wanted, options, size)
    except StageFailed as problem:
        if seen := state.differences(before, state.snapshot(module)):
            _described(
                lambda: eager.load_state(model, weights), wanted, options, size
            )  # raises where state is no reason
            what = f"{model.name} keeps state: {_told(seen)} when it runs, and then {problem}"
            raise StageFailed(what, _PURE) from problem
        raise
    asking = _Asking(model, found.model, weights, first, before)
    return ProbeResult(found.model, (*found.remarks, *_purity(module, asking, options, size)))


def _with_batch(model: Model, size: int | None) -> Model:
    """The model with inputs of that batch alone."""
    if size is None:
        return model
    return replace(model, inputs=tuple(replace(each, shape=(size, *each.shape[1:])) for each in model.inputs))


def _described(
    module: Callable[[], nn.Module], model: Model, options: Options, size: int | None
) -> tuple[ProbeResult, Answered]:
    """The model with its outputs, and its very first answers; each question goes to what `module` gives then."""
    many = draw_cases(model, options, size or 2)
    made = eager.call_module(module(), model, _tensors(many))
    found = eager.named_outputs(made, model)
    kept = _wanted(model, options, list(found.tensors))
    named = replace(model, outputs=tuple(Tensor(name, ()) for name in kept))
    example = dict(zip(kept, (each.detach().clone() for each in select_outputs(made, named)), strict=True))
    for tensor in example.values():
        eager.check_batch(tensor, model, size or 2)
    one = example if size else _answers(module(), named, {name: array[:1] for name, array in many.items()})
    ends = [_answers(module(), named, draw_cases(model, options, size or 1, end)) for end in _ends(options)]
    for name in kept:
        if _dtype(example[name]) not in DTYPES:
            raise StageFailed(
                f"{model.name} gives a tensor of {_dtype(example[name])}", f"give one of {', '.join(DTYPES)}"
            )
        if one[name].shape[1:] != example[name].shape[1:]:
            what = f"{model.name} gives {name} as {tuple(one[name].shape)} of 1 case, and as "
            what += f"{tuple(example[name].shape)} of 2"
            raise StageFailed(what, "let only the first dimension of an output depend on the batch")
    outputs = [_output(model, name, example[name], [end[name] for end in ends], size) for name in kept]
    left = [f"{name} ({kind})" for name, kind in found.others.items()]
    remarks = (f"{model.name} gives more than tensors, which is left out: {', '.join(left)}",) if left else ()
    return ProbeResult(replace(model, outputs=tuple(outputs)), remarks), example


def _wanted(model: Model, options: Options, found: Sequence[str]) -> list[str]:
    """The names of the outputs to keep: those asked for, else those declared, if there are as many, else all.

    Raises BadInput for a name that there is not.
    """
    declared = [tensor.name for tensor in model.outputs]
    renamed = len(declared) == len(found) and not options.outputs
    names = declared if renamed else list(found)
    for name in options.outputs:
        if name not in names:
            raise BadInput(f"{model.name} has no output {name}", f"its outputs are: {', '.join(names)}")
    return list(dict.fromkeys(options.outputs)) or names


def _output(model: Model, name: str, example: torch.Tensor, ends: Sequence[torch.Tensor], size: int | None) -> Tensor:
    """An output with what differs between the examples as a free size."""
    if any(end.dim() != example.dim() for end in ends):
        what = f"{model.name} gives {name} now in {example.dim()} dimensions and now in {ends[0].dim()}"
        raise StageFailed(what, "give always as many")
    word = name.replace(".", "_").replace("-", "_")
    free = [
        side if all(end.shape[axis] == side for end in ends) else f"{word}_{axis}"
        for axis, side in enumerate(example.shape[1:], start=1)
    ]
    return Tensor(name, (size or BATCH, *free), _dtype(example))


@dataclass(frozen=True)
class _Asking:
    """A model as it was and as it is described, its weights, its first answers, and its state before any question."""

    plain: Model
    model: Model
    weights: Weights
    first: Answered
    before: state.Snapshot


def _purity(module: nn.Module, asking: _Asking, options: Options, size: int | None) -> list[str]:
    """What a model does besides answering; raises StageFailed if its answer is not one of its inputs alone."""
    model = asking.model
    inputs, other = draw_cases(model, options, size or 2), draw_cases(model, options, size or 1, seed=1)
    _again(module, asking, inputs)
    settled = state.snapshot(module)
    _again(module, asking, inputs)
    seen = state.differences(settled, state.snapshot(module))
    _answers_or_state(module, model, other, asking.before)
    _again(module, asking, inputs)
    turned = eager.load_state(asking.plain, asking.weights)
    _answers_or_state(turned, model, other, asking.before)
    _again(turned, asking, inputs)
    written = _written(turned, model, inputs)
    remarks = [f"{model.name} writes into its input {name}: it is given copies" for name in written]
    if seen:
        remarks.append(f"{model.name} keeps state, and its answers do not depend on it: {_told(seen)} when it runs")
    return remarks


def _again(module: nn.Module, asking: _Asking, inputs: Arrays) -> None:
    """Asks once more, and raises StageFailed, and says why, if the answer is another than the first one was."""
    model, first = asking.model, asking.first
    now = _answers_or_state(module, model, inputs, asking.before)
    if _equal(first, now):
        return
    fresh, once = eager.load_state(asking.plain, asking.weights), _answers(module, model, inputs)
    if _equal(first, _answers(fresh, model, inputs)):
        raise _stateful(model, state.differences(asking.before, state.snapshot(module)))
    if _equal(now, once):
        what = f"{model.name} is another each time it is built: what it draws beside its weights is in no state dict"
        raise StageFailed(what, "register it as a buffer, or draw it from a seed")
    what = f"{model.name} answers the same inputs differently each time"
    raise StageFailed(what, "let it draw no random numbers, nor drop any, where self.training is false")


def _answers_or_state(module: nn.Module, model: Model, inputs: Arrays, before: state.Snapshot) -> Answered:
    """The answers; raises StageFailed that names what it keeps, if only another call before makes it fail."""
    try:
        return _answers(module, model, inputs)
    except StageFailed as problem:
        seen = state.differences(before, state.snapshot(module))
        if not seen:
            raise
        what = f"{model.name} keeps state: {_told(seen)} when it runs, and then {problem}"
        raise StageFailed(what, _PURE) from problem


_PURE = "let it answer by its inputs alone: hand state in as an input and out as an output"


def _stateful(model: Model, seen: Sequence[str]) -> StageFailed:
    what = _told(seen) if seen else "something outside its modules changes"
    return StageFailed(f"{model.name} keeps state: {what} when it runs, and its answer with it", _PURE)


def _told(seen: Sequence[str]) -> str:
    """`buffer count changes`, `buffer count and 2 more change`."""
    return f"{seen[0]} changes" if len(seen) == 1 else f"{seen[0]} and {len(seen) - 1} more change"


def _written(module: nn.Module, model: Model, inputs: Arrays) -> list[str]:
    """The names of the inputs that the model writes into."""
    given = _tensors(inputs)
    eager.call_module(module, model, given, copies=False)
    whole = {name: torch.from_numpy(array) for name, array in inputs.items()}
    return [name for name, tensor in given.items() if not _close(tensor, whole[name], 0.0)]


def _mixing(model: Model, weights: Weights, options: Options) -> StageFailed | None:
    """What is wrong if a case gets another answer alone than beside another, in FP64 where the model can."""
    two = draw_cases(model, options, 2)
    module, double = eager.load_state(model, weights), True
    try:
        together = _answers(module.double(), model, two, double=True)
    except Exception:  # FP64 is a means of ours, and no condition: FP32 sees all but the finest
        module, double = eager.load_state(model, weights), False
        together = _answers(module, model, two)
    for case in range(2):
        alone = _answers(module, model, {name: array[case : case + 1] for name, array in two.items()}, double=double)
        for name, answer in alone.items():
            if not _close(together[name][case : case + 1], answer, _MIXED64 if double else _MIXED32):
                return _mixed(eager.load_state(model, weights), model, two)
    return None


def _of_statistics(model: Model, weights: Weights, options: Options) -> StageFailed | None:
    """What is wrong with a model that has batch statistics, which may also be why it does not take one case."""
    module = eager.load_state(model, weights)
    return _mixed(module, model, draw_cases(model, options, 2)) if _norms(module) else None


def _norms(module: nn.Module) -> list[str]:
    """The parts that compute with the statistics of the batch they are given."""
    return [
        f"{type(part).__name__} without running statistics: {name}"
        for name, part in module.named_modules()
        if isinstance(part, _STATISTICS) and part.running_mean is None
    ]


def _mixed(module: nn.Module, model: Model, two: Arrays) -> StageFailed:
    norms = _norms(module)
    case = "an image" if model.preprocessing.images(model.inputs) else "a case"
    seen = norms or _asking_lines(module, model, two)
    why = f" ({seen[0]})" if seen else ""
    what = f"{model.name}: {case} alone gets another answer than in a batch from the model itself{why}"
    remedy = "give it running statistics" if norms else "let no case see another: x.amax((1, 2, 3)), not x.max()"
    return StageFailed(what, f"{remedy}, or fix the batch: --batch 1")


def _asking_lines(module: nn.Module, model: Model, inputs: Arrays) -> list[str]:
    """The lines that make one Python number of a whole batch, as far as a run of the model shows them."""
    home, example = source_lines.source_folder(model.factory), list(_tensors(inputs).values())
    try:
        reads = dataflow.follow(eager.exportable(module, model, example), example, home).reads
    except Exception:  # a probe of ours: the user's code and torch may raise anything where they are followed
        return []
    lines = dict.fromkeys(f"{read.place.file}:{read.place.line}" for read in reads if not read.place.guard)
    return [f"it asks for a value of the whole batch at {', '.join(list(lines)[:3])}"] if lines else []


def draw_cases(model: Model, options: Options, count: int, end: str = "typical", seed: int = 0) -> Arrays:
    """So many cases, with free sizes at one end of their ranges; of the typical one the user's own, if any."""
    if options.inputs and end == "typical":
        own = inputs_file.read(Path(options.inputs.path), model.inputs, options.sizes, _CASES)
        places = np.arange(seed * count, (seed + 1) * count)
        return {name: array.take(places, axis=0, mode="wrap") for name, array in own.items()}
    _, inputs = synthetic.draw(model, count, seed, synthetic.sides(options.sizes, end))
    return inputs


def _ends(options: Options) -> tuple[str, ...]:
    return ("smallest", "largest") if options.sizes else ()


def _tensors(inputs: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array) for name, array in inputs.items()}


def _answers(module: nn.Module, model: Model, inputs: Arrays, *, double: bool = False) -> Answered:
    made = eager.run(module, model, _tensors(inputs), double)
    return dict(zip((tensor.name for tensor in model.outputs), made, strict=True))


def _equal(one: Answered, other: Answered) -> bool:
    return all(
        np.allclose(each.numpy(), other[name].numpy(), equal_nan=True) if each.shape == other[name].shape else False
        for name, each in one.items()
    )


def _close(one: torch.Tensor, other: torch.Tensor, allowed: float) -> bool:
    """Whether no value is further from the other than this share of the largest; NaN and infinite ones stand alike."""
    if one.shape != other.shape:
        return False
    left, right = one.double().numpy(), other.double().numpy()
    finite = np.isfinite(left) & np.isfinite(right)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return False
    largest = np.abs(right[finite]).max(initial=0.0)
    return bool(np.abs(left[finite] - right[finite]).max(initial=0.0) <= allowed * largest)


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
