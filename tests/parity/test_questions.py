from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from deploytool.backends.session import Array
from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.parity import questions
from deploytool.parity.metrics import Tolerances
from deploytool.results.report import Limits, Tolerance
from deploytool.spec import Model, Range, Tensor

Session = Callable[..., Arrays]
MODEL = Model("sum", "none", {}, (Tensor("input", ("batch", "n")),), (Tensor("logits", ("batch", 1)),))
INPUTS = {"input": np.arange(8, dtype=np.float32).reshape(2, 4)}
SIZES = {"n": Range(3, 4, 9)}

TOLERANCE = Tolerance(max_error=1e-5, cosine=1 - 1e-8, snr_db=90.0, top1=1.0, top5=1.0)


def source(input: Array) -> Arrays:
    return {"logits": input.sum(axis=1, keepdims=True)}


@pytest.fixture
def asked() -> tuple[questions.Question, ...]:
    return questions.make(MODEL, SIZES, INPUTS, source, "the source")


def broken(session: Session, asked: tuple[questions.Question, ...]) -> list[str]:
    return [check.against for check in questions.ask(session, asked, TOLERANCE) if check.broken]


def test_three_cases_one_alone_and_every_corner_are_asked(asked: tuple[questions.Question, ...]) -> None:
    shapes = {question.against: question.inputs["input"].shape for question in asked}
    assert shapes == {
        "the source, 3 at once": (3, 4),
        "the source, 1 at once": (1, 4),
        "the source at n 3": (2, 3),
        "the source at n 9": (2, 9),
        "the source at n 5": (2, 5),
    }
    assert broken(source, asked) == []


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (lambda array: len(array) == 1, ["the source, 1 at once"]),
        (lambda array: len(array) == 3, ["the source, 3 at once"]),
        (lambda array: array.shape[1] > 5, ["the source at n 9"]),
        (lambda array: array.shape[1] == 5, ["the source at n 5"]),
    ],
)
def test_what_is_wrong_in_one_place_only_is_seen(
    wrong: Callable[[Array], bool], where: list[str], asked: tuple[questions.Question, ...]
) -> None:
    def slip(input: Array) -> Arrays:
        return {"logits": source(input)["logits"] * (1.001 if wrong(input) else 1)}

    assert broken(slip, asked) == where


@pytest.mark.parametrize(
    ("session", "line"),
    [
        (lambda **inputs: {"other": inputs["input"]}, "it gives other and should give logits"),
        (lambda **inputs: {"logits": inputs["input"]}, "against the source, 3 at once, shapes differ"),
        (lambda **inputs: {"logits": inputs["input"][:1]}, "logits has 1 answers to 3 cases"),
    ],
)
def test_other_outputs_are_a_failure(session: Session, line: str, asked: tuple[questions.Question, ...]) -> None:
    with pytest.raises(StageFailed, match=line):
        questions.ask(session, asked, TOLERANCE)


@pytest.mark.parametrize(("slip", "holds"), [(1.0, True), (1 + 1e-4, True), (1 + 1e-2, False)])
def test_the_noise_at_a_question_is_asked_where_golden_noise_does_not_let_its_answer_pass(
    slip: float, holds: bool, asked: tuple[questions.Question, ...]
) -> None:
    heard: list[str] = []

    def at(name: str, inputs: Arrays) -> Tolerances:
        heard.append(f"{name}: {inputs['input'].shape}")
        return Tolerances(Limits(1e-3, 0.9, 50.0, 1.0, 1.0), Limits(1.0, 0.0, 0.0, 1.0, 1.0))

    def session(input: Array) -> Arrays:
        return {"logits": source(input)["logits"] * (slip if input.shape[1] == 9 else 1)}

    checks = {check.against: check for check in questions.ask(session, asked, TOLERANCE, at)}
    assert [not check.broken for check in checks.values()] == [True, True, True, holds, True]
    assert heard == ([] if slip == 1 else ["the source at n 9: (2, 9)"])
    assert (checks["the source at n 9"].tolerance != TOLERANCE) == (slip == 1 + 1e-4)
