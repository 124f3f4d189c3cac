"""Tries a graph on questions with known answers: many cases, few, one alone, and the corners of every free size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.parity import metrics
from deploytool.parity.replay import replay
from deploytool.parity.shape_corners import At, draw
from deploytool.results.report import Check, Tolerance
from deploytool.spec import Model, Range

_FEW = 3  # neither the one nor the two cases of an example: a batch fixed at export shows


@dataclass(frozen=True)
class Question:
    """Inputs, the answers to them, who gave those, and where they are ties, if anybody knows.

    `asked` says what they are the answers to, in words.
    """

    against: str
    asked: str
    inputs: Arrays
    answers: Arrays
    ties: Arrays = field(default_factory=dict)


def make(
    model: Model, sizes: Mapping[str, Range], inputs: Arrays, source: Callable[..., Arrays], name: str
) -> tuple[Question, ...]:
    """What a graph must answer as `source`, called `name`: three cases, one alone, and every corner of `sizes`."""
    batches = {f"{count} at once": _first(inputs, count) for count in (_FEW, 1)}
    asked = [Question(f"{name}, {what}", what, few, replay(source, few)) for what, few in batches.items()]
    extremes = draw(model, sizes, source)
    at_corners = (Question(f"{name} at {each.asked}", each.asked, each.inputs, each.answers) for each in extremes)
    return (*asked, *at_corners)


def _first(inputs: Arrays, count: int) -> Arrays:
    return {name: np.resize(array, (count, *array.shape[1:])) for name, array in inputs.items()}


def ask(
    session: Callable[..., Arrays], asked: Sequence[Question], tolerance: Tolerance, at: At | None = None
) -> tuple[Check, ...]:
    """How the session's answers compare, question by question.

    Where one breaks what golden noise allows, `at` may tell what the noise at that very question lets pass in FP32.
    Raises StageFailed if the session fails on one of them, or gives other outputs or shapes.
    """
    return tuple(_mark(session, question, tolerance, at) for question in asked)


def _mark(session: Callable[..., Arrays], question: Question, tolerance: Tolerance, at: At | None) -> Check:
    got = replay(session, question.inputs)
    if set(got) != set(question.answers):
        raise StageFailed(f"it gives {', '.join(got)} and should give {', '.join(question.answers)}", "report it")
    try:
        first = metrics.check(got, question.answers, question.against, tolerance, question.ties)
        if not first.broken or at is None:
            return first
        own = at(question.against, question.inputs).fp32
        second = metrics.check(got, question.answers, question.against, own, question.ties)
        return min(first, second, key=lambda each: len(each.broken))
    except ValueError as error:
        raise StageFailed(f"against {question.against}, {error}", "report it") from error
