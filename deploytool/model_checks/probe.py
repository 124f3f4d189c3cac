"""Probes a model before the export: its outputs, whether it is a pure function, and which batch sizes it accepts.

A model may write into its inputs, keep state, mix the cases of a batch or accept only one batch size. It is run several
times in different orders, and deviations become remarks. Only behaviour that no exported file can reproduce is an
error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from deploytool.backends import eager
from deploytool.data import inputs_file, synthetic
from deploytool.data.golden import Arrays
from deploytool.errors import BadInput, StageFailed
from deploytool.loading.module import state
from deploytool.loading.module.exportable import select_outputs
from deploytool.model_checks import closeness, dataflow, output_axes, source_lines
from deploytool.model_checks.output_axes import OutputAxis
from deploytool.spec import BATCH, DTYPES, Model, Options, Tensor

_MIXING_FP64, _MIXING_FP32 = 1e-6, 1e-3  # relative to the largest value: far above rounding errors
_MAX_CASES = 64  # read from the user's input file
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

Weights = Mapping[str, torch.Tensor]
Outputs = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class ProbeResult:
    """The model with its outputs, and with a fixed batch size if it accepts no other; remarks for the user."""

    model: Model
    remarks: tuple[str, ...]


def describe(module: nn.Module, model: Model, options: Options) -> ProbeResult:
    """Runs the module to find the names, types and shapes of its outputs, and which of their sizes are dynamic."""
    return _describe_outputs(lambda: module, model, options, None)[0]


def examine(model: Model, weights: Weights, options: Options) -> ProbeResult:
    """Describes an unknown model as `describe` does, and checks that an exported file can reproduce it.

    With `options.fixed_batch`, a model that fails at other batch sizes is described with that batch size. Raises
    StageFailed if outputs are random, depend on earlier calls, or on the other cases of the batch.
    """
    mixing = None
    if model.given is not None and model.given.batch is not None:
        return _examine_fixed(model, weights, options, model.given.batch)
    try:
        result = _examine(model, weights, options, None)
        mixing = problem = _mixing_problem(result.model, weights, options)
    except StageFailed as failure:
        problem = _batch_norm_problem(model, weights, options) or failure
    if problem is None:
        return result
    if options.fixed_batch is not None:
        result = _examine(model, weights, options, options.fixed_batch)
        remark = f"{model.name} accepts only batch size {options.fixed_batch}: exported with that batch size"
        return replace(result, remarks=(*result.remarks, remark))
    if mixing is None and _accepts_batch_of_one(model, weights, options):
        raise StageFailed(str(problem), "support any batch size, or fix it: --batch 1") from problem
    raise problem


def _examine_fixed(model: Model, weights: Weights, options: Options, size: int) -> ProbeResult:
    """Describes a graph with a fixed batch; raises StageFailed if a case depends on the others of its batch."""
    result = _examine(model, weights, options, size)
    if size > 1 and _depends_on_others(result.model, weights, options, size):
        what = f"{model.name}: the outputs of a case depend on the other cases of its batch of {size}"
        raise StageFailed(what, "if the first dimension is no batch, take it as one case: --batch 1")
    return result


def _depends_on_others(model: Model, weights: Weights, options: Options, size: int) -> bool:
    """Whether the answer to the first case changes with the other cases of a batch of `size`."""
    first, second = draw_cases(model, options, size), draw_cases(model, options, size, seed=1)
    mixed = {name: np.concatenate([array[:1], second[name][1:]]) for name, array in first.items()}
    module = eager.load_state(model, weights)
    alone, among_others = (_run(module, model, inputs) for inputs in (first, mixed))
    return not all(closeness.close(among_others[name][:1], output[:1], _MIXING_FP32) for name, output in alone.items())


def _accepts_batch_of_one(model: Model, weights: Weights, options: Options) -> bool:
    try:
        _examine(model, weights, options, 1)
    except (StageFailed, BadInput):
        return False
    return True


def _examine(model: Model, weights: Weights, options: Options, size: int | None) -> ProbeResult:
    """Describes the outputs and checks purity, at batch size `size` (None: any)."""
    result, repeat_remarks, baseline = _first_module(model, weights, options, size)
    if baseline is None:
        return result
    remarks = _order_remarks(baseline, options, size)
    return ProbeResult(result.model, (*result.remarks, *remarks, *repeat_remarks))


def _first_module(
    model: Model, weights: Weights, options: Options, size: int | None
) -> tuple[ProbeResult, list[str], _Baseline | None]:
    """The outputs, remarks about repeated runs, and what other modules are compared with; None where they need not be.

    The module ends with this function: one more beside it would take the memory twice.
    """
    module, sized = eager.load_state(model, weights), _with_batch(model, size)
    before = state.snapshot(module, weights)
    try:
        result, first = _describe_outputs(lambda: module, sized, options, size)
    except StageFailed as problem:
        if changes := state.differences(before, state.snapshot(module, weights)):
            # raises if fresh modules fail as well: then state is not the cause
            _describe_outputs(lambda: eager.load_state(model, weights), sized, options, size)
            what = f"{model.name} keeps state: {_summary(changes)} when it runs, and then {problem}"
            raise StageFailed(what, _PURITY_REMEDY) from problem
        raise
    if model.given is not None:
        return result, [], None  # a graph has no state, and each node has one result for the same inputs
    baseline = _Baseline(model, result.model, weights, first, before)
    return result, _repeat_remarks(module, baseline, options, size), baseline


def _with_batch(model: Model, size: int | None) -> Model:
    """The model with a fixed batch size; unchanged for None."""
    if size is None:
        return model
    return replace(model, inputs=tuple(replace(tensor, shape=(size, *tensor.shape[1:])) for tensor in model.inputs))


def _describe_outputs(
    module: Callable[[], nn.Module], model: Model, options: Options, size: int | None
) -> tuple[ProbeResult, Outputs]:
    """The model with its outputs, and its outputs for the first batch; calls `module` for a module before each run."""
    inputs = draw_cases(model, options, size or 2)
    result = eager.call_module(module(), model, _tensors(inputs))
    flattened = eager.named_outputs(result, model)
    first_case = {name: array[:1] for name, array in inputs.items()}
    alone = result if size else eager.call_module(module(), model, _tensors(first_case))
    single_names = eager.named_outputs(alone, model).tensors
    axes = {} if size or model.outputs else output_axes.find(flattened.tensors, single_names)
    selected = _with_batch_axis(_selected_names(model, options, list(flattened.tensors)), axes, options)
    declared = (Tensor(name, (), batch_axis=axes[name].axis if name in axes else 0) for name in selected)
    named = replace(model, outputs=tuple(declared))
    example, single = _checked(result, named, size or 2), _checked(alone, named, size or 1)
    ends = [_run(module(), named, draw_cases(model, options, size or 1, end)) for end in _range_ends(options)]
    _check_outputs(model, example, single)
    by_name = {name: [end[name] for end in ends] for name in example}
    found = (_output(model, tensor, example[tensor.name], by_name[tensor.name], size) for tensor in named.outputs)
    omitted = [f"{name} ({kind})" for name, kind in flattened.others.items()]
    remarks = [f"{model.name} returns values that are not tensors; left out: {', '.join(omitted)}"] if omitted else []
    remarks += output_axes.remarks(model.name, {name: axes[name] for name in options.outputs or axes if name in axes})
    return ProbeResult(replace(model, outputs=tuple(found)), tuple(remarks)), example


def _checked(result: Any, model: Model, cases: int) -> dict[str, torch.Tensor]:
    """Copies of the outputs of a model, by name; raises StageFailed for one whose first dimension is not the batch."""
    tensors = {
        tensor.name: output.detach().clone()
        for tensor, output in zip(model.outputs, select_outputs(result, model), strict=True)
    }
    for output in tensors.values():
        eager.check_batch(output, model, cases)
    return tensors


def _check_outputs(model: Model, example: Outputs, single: Outputs) -> None:
    """Raises StageFailed for an output of an unknown type, or with a second dimension that depends on the batch."""
    for name, tensor in example.items():
        if _dtype_name(tensor) not in DTYPES:
            what = f"{model.name} returns a tensor of {_dtype_name(tensor)}"
            raise StageFailed(what, f"return one of {', '.join(DTYPES)}")
        if single[name].shape[1:] != tensor.shape[1:]:
            what = f"{model.name} returns {name} with shape {tuple(single[name].shape)} for a batch of 1, and "
            what += f"{tuple(tensor.shape)} for a batch of 2"
            raise StageFailed(what, "let only the first dimension of an output depend on the batch")


def _with_batch_axis(names: Sequence[str], axes: Mapping[str, OutputAxis], options: Options) -> list[str]:
    """The outputs that have one answer for each case; all of them if none has, or if the user selected them."""
    usable = [name for name in names if name not in axes or axes[name].usable]
    return list(names) if options.outputs else usable or list(names)


def _selected_names(model: Model, options: Options, available: Sequence[str]) -> list[str]:
    """The names of the outputs to keep: those of `--output`, else the declared ones if their number fits, else all.

    Raises BadInput for an unknown name.
    """
    declared = [tensor.name for tensor in model.outputs]
    renamed = len(declared) == len(available) and not options.outputs
    names = declared if renamed else list(available)
    for name in options.outputs:
        if name not in names:
            raise BadInput(f"{model.name} has no output {name}", f"its outputs are: {', '.join(names)}")
    return list(dict.fromkeys(options.outputs)) or names


def _output(
    model: Model, tensor: Tensor, example: torch.Tensor, ends: Sequence[torch.Tensor], batch: int | None
) -> Tensor:
    """Describes an output; an axis whose size differs between `example` and `ends` becomes dynamic."""
    name = tensor.name
    if any(end.dim() != example.dim() for end in ends):
        what = f"{model.name} returns {name} with {example.dim()} dimensions at one input size and {ends[0].dim()} at "
        raise StageFailed(f"{what}another", "return the same number of dimensions for all input sizes")
    word = name.replace(".", "_").replace("-", "_")
    sizes = [
        size if all(end.shape[axis] == size for end in ends) else f"{word}_{axis}"
        for axis, size in enumerate(example.shape[1:], start=1)
    ]
    return replace(tensor, shape=(batch or BATCH, *sizes), dtype=_dtype_name(example))


@dataclass(frozen=True)
class _Baseline:
    """What later runs are compared with.

    declared: the model before its outputs were described. model: the model after that. first: its outputs for the
    first batch. before: its state before the first run.
    """

    declared: Model
    model: Model
    weights: Weights
    first: Outputs
    before: state.Snapshot

    def snapshot(self, module: nn.Module) -> state.Snapshot:
        """The state of a module that was built with these weights."""
        return state.snapshot(module, self.weights)


def _repeat_remarks(module: nn.Module, baseline: _Baseline, options: Options, size: int | None) -> list[str]:
    """State that a model keeps without effect, as remarks; raises StageFailed if its outputs change from run to run."""
    model = baseline.model
    inputs, other_inputs = draw_cases(model, options, size or 2), draw_cases(model, options, size or 1, seed=1)
    _check_repeats(module, baseline, inputs)
    after_warmup = baseline.snapshot(module)
    _check_repeats(module, baseline, inputs)
    changes = state.differences(after_warmup, baseline.snapshot(module))
    _run_or_blame_state(module, baseline, other_inputs)
    _check_repeats(module, baseline, inputs)
    if not changes:
        return []
    return [f"{model.name} keeps state that does not affect its outputs: {_summary(changes)} when it runs"]


def _order_remarks(baseline: _Baseline, options: Options, size: int | None) -> list[str]:
    """The inputs that a model writes into, as remarks; raises StageFailed if its outputs depend on earlier inputs."""
    model = baseline.model
    inputs, other_inputs = draw_cases(model, options, size or 2), draw_cases(model, options, size or 1, seed=1)
    reordered = eager.load_state(baseline.declared, baseline.weights)  # sees the other inputs first
    _run_or_blame_state(reordered, baseline, other_inputs)
    _check_repeats(reordered, baseline, inputs)
    written = _written_inputs(reordered, model, inputs)
    return [f"{model.name} writes into its input {name}: it receives copies" for name in written]


def _check_repeats(module: nn.Module, baseline: _Baseline, inputs: Arrays) -> None:
    """Runs the module again; raises StageFailed with the cause if its outputs differ from the first ones."""
    model, first = baseline.model, baseline.first
    outputs = _run_or_blame_state(module, baseline, inputs)
    if closeness.equal(first, outputs):
        return
    fresh, repeated = eager.load_state(baseline.declared, baseline.weights), _run(module, model, inputs)
    if closeness.equal(first, _run(fresh, model, inputs)):
        raise _stateful(model, state.differences(baseline.before, baseline.snapshot(module)))
    if closeness.equal(outputs, repeated):
        what = f"{model.name} differs each time it is built: it draws random values that are not in its state dict"
        raise StageFailed(what, "register them as buffers, or draw them from a seed")
    what = f"{model.name} returns different outputs for the same inputs"
    raise StageFailed(what, "disable dropout and random numbers where self.training is false")


def _run_or_blame_state(module: nn.Module, baseline: _Baseline, inputs: Arrays) -> Outputs:
    """The outputs of a run; if it fails after the state changed, raises StageFailed that names the state."""
    try:
        return _run(module, baseline.model, inputs)
    except StageFailed as problem:
        changes = state.differences(baseline.before, baseline.snapshot(module))
        if not changes:
            raise
        what = f"{baseline.model.name} keeps state: {_summary(changes)} when it runs, and then {problem}"
        raise StageFailed(what, _PURITY_REMEDY) from problem


_PURITY_REMEDY = "compute outputs from inputs alone: pass state in as an input and return it as an output"


def _stateful(model: Model, changes: Sequence[str]) -> StageFailed:
    what = _summary(changes) if changes else "something outside its modules changes"
    return StageFailed(f"{model.name} keeps state that affects its outputs: {what} when it runs", _PURITY_REMEDY)


def _summary(changes: Sequence[str]) -> str:
    """`buffer count changes`, `buffer count and 2 more change`."""
    return f"{changes[0]} changes" if len(changes) == 1 else f"{changes[0]} and {len(changes) - 1} more change"


def _written_inputs(module: nn.Module, model: Model, inputs: Arrays) -> list[str]:
    """The names of the inputs that the model writes into."""
    tensors = _tensors(inputs)
    eager.call_module(module, model, tensors, copies=False)
    originals = {name: torch.from_numpy(array) for name, array in inputs.items()}
    return [name for name, tensor in tensors.items() if not closeness.close(tensor, originals[name], 0.0)]


def _mixing_problem(model: Model, weights: Weights, options: Options) -> StageFailed | None:
    """The error if outputs of a case depend on the other cases of its batch; compares in FP64 where possible."""
    batch = draw_cases(model, options, 2)
    module, double = eager.load_state(model, weights), True
    try:
        batched = _run(module, model, batch, double=True)
    except Exception:  # FP64 is not required; FP32 detects all but the smallest differences
        module, double = eager.load_state(model, weights), False
        batched = _run(module, model, batch)
    for case in range(2):
        single = _run(module, model, {name: array[case : case + 1] for name, array in batch.items()}, double=double)
        for name, output in single.items():
            if not closeness.close(batched[name][case : case + 1], output, _MIXING_FP64 if double else _MIXING_FP32):
                return _mixing_failure(eager.load_state(model, weights), model, batch)
    return None


def _batch_norm_problem(model: Model, weights: Weights, options: Options) -> StageFailed | None:
    """The error for a model that normalises with batch statistics, which may be why it fails for a batch of 1."""
    module = eager.load_state(model, weights)
    has_batch_statistics = bool(_batch_statistics(module))
    return _mixing_failure(module, model, draw_cases(model, options, 2)) if has_batch_statistics else None


def _batch_statistics(module: nn.Module) -> list[str]:
    """The submodules that normalise with the statistics of the current batch."""
    return [
        f"{type(part).__name__} without running statistics: {name}"
        for name, part in module.named_modules()
        if isinstance(part, _BATCH_NORMS) and part.running_mean is None
    ]


def _mixing_failure(module: nn.Module, model: Model, inputs: Arrays) -> StageFailed:
    norms = _batch_statistics(module)
    case = "an image" if model.preprocessing.images(model.inputs) else "a case"
    causes = norms or _batch_reads(module, model, inputs)
    cause = f" ({causes[0]})" if causes else ""
    what = f"{model.name}: the outputs of {case} depend on the other cases of its batch{cause}"
    remedy = "give it running statistics" if norms else "reduce over each case alone: x.amax((1, 2, 3)), not x.max()"
    return StageFailed(what, f"{remedy}, or fix the batch: --batch 1")


def _batch_reads(module: nn.Module, model: Model, inputs: Arrays) -> list[str]:
    """The lines that reduce a whole batch to one Python value, as far as a run of the model shows them."""
    home, example = source_lines.source_folder(model.factory), list(_tensors(inputs).values())
    try:
        reads = dataflow.follow(eager.exportable_module(module, model, example), example, home).reads
    except Exception:  # this probe is optional: user code and torch may raise anything while they are followed
        return []
    lines = dict.fromkeys(f"{read.line.file}:{read.line.line}" for read in reads if not read.line.guard)
    return [f"a value of the whole batch is read at {', '.join(list(lines)[:3])}"] if lines else []


def draw_cases(model: Model, options: Options, count: int, end: str = "typical", seed: int = 0) -> Arrays:
    """Draws `count` input cases with dynamic sizes at one end of their ranges; typical ones from the user's file."""
    if options.inputs and end == "typical":
        cases = inputs_file.read(Path(options.inputs.path), model.inputs, options.sizes, _MAX_CASES)
        indices = np.arange(seed * count, (seed + 1) * count)
        return {name: array.take(indices, axis=0, mode="wrap") for name, array in cases.items()}
    _, inputs = synthetic.draw(model, count, seed, synthetic.sides(options.sizes, end))
    return inputs


def _range_ends(options: Options) -> tuple[str, ...]:
    return ("smallest", "largest") if options.sizes else ()


def _tensors(inputs: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array) for name, array in inputs.items()}


def _run(module: nn.Module, model: Model, inputs: Arrays, *, double: bool = False) -> Outputs:
    outputs = eager.run(module, model, _tensors(inputs), double)
    return dict(zip((tensor.name for tensor in model.outputs), outputs, strict=True))


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
