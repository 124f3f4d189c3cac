"""Tries an artifact where an exporter fixed a line of the model, and says what that showed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deploytool.backends import Session
from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.model_checks import baked_inputs
from deploytool.model_checks.baked_inputs import TrialInputs
from deploytool.model_checks.dataflow import Flow, follow
from deploytool.model_checks.source_lines import SourceLine
from deploytool.parity import metrics
from deploytool.parity import questions as parity_questions
from deploytool.parity.questions import Question
from deploytool.results.baked_values import BakedKind, BakedValue, Origin
from deploytool.results.report import Tolerance
from deploytool.spec import Model, Stage

Start = Callable[[], AbstractContextManager[Session]]

_PLAIN = 1e-3  # an error from here on is no rounding: nothing less convicts a line


@dataclass(frozen=True)
class Subject:
    """The model whose lines are looked at: its module, the golden inputs and the folder of its file."""

    module: nn.Module
    model: Model
    inputs: Arrays
    home: Path | None
    count: int = 2  # cases at once, as at export


@dataclass(frozen=True)
class Mismatch:
    """An input on which the artifact is not the model, and how far off it is; None if it does not run."""

    name: str
    error: float | None


@dataclass
class _Shown:
    """What the tries showed of one line so far."""

    apart: int = 0
    wrong: Mismatch | None = None


@dataclass
class _Tally:
    """What all tries showed: how many ran, and what of each line."""

    tried: int = 0
    lines: dict[SourceLine, _Shown] = field(default_factory=dict)


def find(
    subject: Subject, warned: Mapping[SourceLine, BakedKind]
) -> tuple[dict[SourceLine, BakedKind], dict[SourceLine, BakedKind], Flow | None]:
    """The lines that were fixed by data and by sizes alone, and the run at export, if it could be followed.

    Where it could not, every line of which the tracer warned may have been fixed by data.
    """
    try:
        flow = follow(subject.module, _given(subject, subject.inputs), subject.home)
    except Exception:  # the user's code and torch may raise anything in a run that is followed
        return dict(warned), {}, None
    data = {read.place: warned.get(read.place, read.what) for read in flow.reads}
    left = {place: what for place, what in warned.items() if place not in data and place not in flow.constants}
    if flow.ragged:  # sizes are values here
        return {**data, **left}, {}, flow
    return data, left, flow


def examine(
    stage: Stage,
    subject: Subject,
    start: Start,
    warned: Mapping[SourceLine, BakedKind],
    asked: Callable[[], Sequence[Question]],
    tolerance: Tolerance,
    *,
    traced: bool = True,
) -> tuple[BakedValue, ...]:
    """Every line of the model that a tracer fixed in the artifact of a stage, after it was tried; the worst first.

    `warned` is what the tracer said, `start` runs the artifact, and `asked` gives other batches and sizes with the
    model's answers. What the model itself cannot do is no try. An exporter that has not `traced` fixes no values, and
    sizes only where that shows.
    """
    data, sizes, flow = find(subject, warned)
    data = data if traced else {}
    if not data and not sizes:
        return ()
    found = []
    with start() as session:
        if sizes:
            questions = asked()
            wrong = _sizes(session, questions, tolerance)
            found = [_fixed(stage, each, Origin.SHAPE, _Shown(0, wrong), len(questions)) for each in sizes.items()]
        if data:
            tally = _tally(subject, session, tuple(data), flow, tolerance)
            found += [_fixed(stage, each, Origin.DATA, tally.lines[each[0]], tally.tried) for each in data.items()]
    found = [each for each in found if traced or each.wrong]
    return tuple(sorted(found, key=lambda each: (not each.wrong, not each.doubtful, each.file, each.line)))


def _fixed(stage: Stage, where: tuple[SourceLine, BakedKind], origin: Origin, shown: _Shown, tried: int) -> BakedValue:
    place, what = where
    wrong = shown.wrong or Mismatch("", None)
    return BakedValue(
        stage=stage,
        what=what,
        origin=origin,
        file=place.file,
        line=place.line,
        source=place.source,
        guard=place.guard,
        tried=tried,
        apart=shown.apart,
        shown_by=wrong.name,
        error=wrong.error,
    )


def _sizes(session: Session, asked: Sequence[Question], tolerance: Tolerance) -> Mismatch | None:
    """The first question that is answered otherwise than by the model."""
    for question in asked:
        try:
            (check,) = parity_questions.ask(session, [question], tolerance)
        except StageFailed:
            return Mismatch(question.asked, None)
        if check.broken and check.parity.max_error > _PLAIN:
            return Mismatch(question.asked, check.parity.max_error)
    return None


def _tally(
    subject: Subject, session: Session, lines: Sequence[SourceLine], usual: Flow | None, tolerance: Tolerance
) -> _Tally:
    tally = _Tally(lines={place: _Shown() for place in lines})
    for each in baked_inputs.draw(subject.model, subject.inputs, subject.count, usual.reads if usual else ()):
        answered = _answered(subject, each, followed=usual is not None)
        if answered is None:
            continue
        tally.tried += 1
        apart = [place for place in lines if usual is None or answered.at(place) != usual.at(place)]
        ragged = answered.ragged or usual is None
        if not apart and not ragged:
            continue
        wrong = _wrong(subject, session, each, answered, tolerance)
        for place in apart or lines:
            shown = tally.lines[place]
            shown.apart += place in apart
            shown.wrong = shown.wrong or wrong
    return tally


def _answered(subject: Subject, each: TrialInputs, *, followed: bool) -> Flow | None:
    """The run of the model on a try; None where it raises, or gives what is no number."""
    given = _given(subject, each.inputs)
    try:
        if followed:
            flow = follow(subject.module, given, subject.home)
        else:
            with torch.no_grad():
                made = subject.module(*given)
            answers = tuple(made) if isinstance(made, (tuple, list)) else (made,)
            flow = Flow((), frozenset(), ragged=False, answers=answers)
    except Exception:  # the user's code may raise anything: then there is no answer to hold anything against
        return None
    finite = all(bool(tensor.isfinite().all()) for tensor in flow.answers)
    return flow if finite else None


def _wrong(subject: Subject, session: Session, each: TrialInputs, flow: Flow, tolerance: Tolerance) -> Mismatch | None:
    """How the artifact is wrong on a try, if it is."""
    names = [tensor.name for tensor in subject.model.outputs]
    wanted = {name: tensor.numpy() for name, tensor in zip(names, flow.answers, strict=True)}
    try:
        got = session(**{name: np.ascontiguousarray(array) for name, array in each.inputs.items()})
        check = metrics.check(got, wanted, each.name, tolerance)
    except (StageFailed, ValueError):
        return Mismatch(each.name, None)
    return Mismatch(each.name, check.parity.max_error) if check.broken and check.parity.max_error > _PLAIN else None


def _given(subject: Subject, inputs: Arrays) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(inputs[tensor.name][: subject.count])) for tensor in subject.model.inputs]
