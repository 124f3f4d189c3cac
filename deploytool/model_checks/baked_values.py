"""Finds values of the model that an export baked in, and tests whether the artifact is wrong because of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deploytool.backends.session import Session
from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.model_checks import baked_inputs
from deploytool.model_checks.baked_inputs import TrialInputs
from deploytool.model_checks.dataflow import Flow, follow
from deploytool.model_checks.source_lines import SourceLine
from deploytool.parity import metrics, reference_cases
from deploytool.parity.reference_cases import ReferenceCases
from deploytool.results.baked_values import BakedKind, BakedValue, Origin
from deploytool.results.report import Tolerance
from deploytool.spec import Model, Stage

Start = Callable[[], AbstractContextManager[Session]]
BakedLines = dict[SourceLine, BakedKind]

_MIN_ERROR = 1e-3  # relative to the largest output; smaller errors may be rounding and prove nothing


@dataclass(frozen=True)
class Subject:
    """The model under test: its module, its golden inputs and the folder of its source file.

    count: cases per batch, as at export.
    """

    module: nn.Module
    model: Model
    inputs: Arrays
    home: Path | None
    count: int = 2


@dataclass(frozen=True)
class Mismatch:
    """An input for which the artifact deviates from the model, with the relative error; None if the run fails."""

    name: str
    error: float | None


@dataclass
class _LineResult:
    """What the trials show about one line: how many inputs changed its values, and the first mismatch."""

    changed: int = 0
    mismatch: Mismatch | None = None


@dataclass
class _TrialResults:
    """The number of trials that ran on the model, and the result for each line."""

    count: int = 0
    lines: dict[SourceLine, _LineResult] = field(default_factory=dict)


def find(subject: Subject, warned: Mapping[SourceLine, BakedKind]) -> tuple[BakedLines, BakedLines, Flow | None]:
    """The lines baked in from input values, those baked in from sizes alone, and the data flow at export.

    If the run at export cannot be followed, there is no data flow, and each line in `warned` counts as baked in from
    input values.
    """
    try:
        flow = follow(subject.module, _input_tensors(subject, subject.inputs), subject.home)
    except Exception:  # user code and torch may raise anything while the run is followed
        return dict(warned), {}, None
    from_data = {read.line: warned.get(read.line, read.kind) for read in flow.reads}
    from_sizes = {
        line: kind for line, kind in warned.items() if line not in from_data and line not in flow.constant_lines
    }
    if flow.data_dependent_sizes:  # such a size depends on input values
        return {**from_data, **from_sizes}, {}, flow
    return from_data, from_sizes, flow


def examine(
    stage: Stage,
    subject: Subject,
    start: Start,
    warned: Mapping[SourceLine, BakedKind],
    make_cases: Callable[[], Sequence[ReferenceCases]],
    tolerance: Tolerance,
    *,
    traced: bool = True,
) -> tuple[BakedValue, ...]:
    """Finds every line of the model that the export baked in, and tests the artifact of `stage` for it; worst first.

    warned: the lines the tracer warned about. start: opens a session of the artifact. make_cases: returns other
    batches and sizes with the answers of the model. Inputs on which the model itself fails do not count.
    traced: False for an exporter that does not trace: it bakes in no values, and of the sizes only mismatches are kept.
    """
    from_data, from_sizes, flow = find(subject, warned)
    from_data = from_data if traced else {}
    if not from_data and not from_sizes:
        return ()
    baked = []
    with start() as session:
        if from_sizes:
            cases = make_cases()
            result = _LineResult(0, _size_mismatch(session, cases, tolerance))
            baked = [_baked_value(stage, line, Origin.SHAPE, result, len(cases)) for line in from_sizes.items()]
        if from_data:
            results = _run_trials(subject, session, tuple(from_data), flow, tolerance)
            baked += [
                _baked_value(stage, (line, kind), Origin.DATA, results.lines[line], results.count)
                for line, kind in from_data.items()
            ]
    baked = [value for value in baked if traced or value.wrong]
    return tuple(sorted(baked, key=lambda value: (not value.wrong, not value.doubtful, value.file, value.line)))


def _baked_value(
    stage: Stage, baked_line: tuple[SourceLine, BakedKind], origin: Origin, result: _LineResult, tried: int
) -> BakedValue:
    line, kind = baked_line
    mismatch = result.mismatch or Mismatch("", None)
    return BakedValue(
        stage=stage,
        kind=kind,
        origin=origin,
        file=line.file,
        line=line.line,
        source=line.source,
        guard=line.guard,
        inputs_tried=tried,
        inputs_deviating=result.changed,
        counterexample=mismatch.name,
        error=mismatch.error,
    )


def _size_mismatch(session: Session, cases: Sequence[ReferenceCases], tolerance: Tolerance) -> Mismatch | None:
    """The first batch or size at which the artifact fails or deviates from the model."""
    for reference in cases:
        try:
            (check,) = reference_cases.check(session, [reference], tolerance)
        except StageFailed:
            return Mismatch(reference.label, None)
        if check.broken and check.parity.max_error > _MIN_ERROR:
            return Mismatch(reference.label, check.parity.max_error)
    return None


def _run_trials(
    subject: Subject, session: Session, lines: Sequence[SourceLine], export_flow: Flow | None, tolerance: Tolerance
) -> _TrialResults:
    """Runs the model and the artifact on trial inputs that change a value at one of `lines`."""
    results = _TrialResults(lines={line: _LineResult() for line in lines})
    reads = export_flow.reads if export_flow else ()
    for trial in baked_inputs.draw(subject.model, subject.inputs, subject.count, reads):
        flow = _run_model(subject, trial, followed=export_flow is not None)
        if flow is None:
            continue
        results.count += 1
        changed = [line for line in lines if export_flow is None or flow.values_at(line) != export_flow.values_at(line)]
        if not changed and not flow.data_dependent_sizes and export_flow is not None:
            continue
        mismatch = _trial_mismatch(subject, session, trial, flow, tolerance)
        for line in changed or lines:
            result = results.lines[line]
            result.changed += line in changed
            result.mismatch = result.mismatch or mismatch
    return results


def _run_model(subject: Subject, trial: TrialInputs, *, followed: bool) -> Flow | None:
    """Runs the model on trial inputs; None where it raises or its outputs are not finite."""
    tensors = _input_tensors(subject, trial.inputs)
    try:
        if followed:
            flow = follow(subject.module, tensors, subject.home)
        else:
            with torch.no_grad():
                result = subject.module(*tensors)
            outputs = tuple(result) if isinstance(result, (tuple, list)) else (result,)
            flow = Flow((), frozenset(), data_dependent_sizes=False, outputs=outputs)
    except Exception:  # user code may raise anything; without an answer there is nothing to compare
        return None
    finite = all(bool(tensor.isfinite().all()) for tensor in flow.outputs)
    return flow if finite else None


def _trial_mismatch(
    subject: Subject, session: Session, trial: TrialInputs, flow: Flow, tolerance: Tolerance
) -> Mismatch | None:
    """How the artifact deviates from the model on trial inputs; None if it does not."""
    names = [tensor.name for tensor in subject.model.outputs]
    expected = {name: tensor.numpy() for name, tensor in zip(names, flow.outputs, strict=True)}
    try:
        actual = session(**{name: np.ascontiguousarray(array) for name, array in trial.inputs.items()})
        check = metrics.check(actual, expected, trial.name, tolerance)
    except (StageFailed, ValueError):
        return Mismatch(trial.name, None)
    deviates = check.broken and check.parity.max_error > _MIN_ERROR
    return Mismatch(trial.name, check.parity.max_error) if deviates else None


def _input_tensors(subject: Subject, inputs: Arrays) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(inputs[tensor.name][: subject.count])) for tensor in subject.model.inputs]
