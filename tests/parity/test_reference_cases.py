from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from deploytool.backends.session import Array
from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.parity import reference_cases
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


GOLDEN = reference_cases.ReferenceCases("FP64", "golden", INPUTS, source(**INPUTS))


@pytest.fixture
def cases() -> tuple[reference_cases.ReferenceCases, ...]:
    return reference_cases.make(MODEL, SIZES, GOLDEN, source, "the source")


def broken(session: Session, cases: tuple[reference_cases.ReferenceCases, ...]) -> list[str]:
    return [check.against for check in reference_cases.check(session, cases, TOLERANCE) if check.broken]


def test_there_are_three_cases_one_case_and_every_corner(cases: tuple[reference_cases.ReferenceCases, ...]) -> None:
    shapes = {reference.against: reference.inputs["input"].shape for reference in cases}
    assert shapes == {
        "the source, batch size 3": (3, 4),
        "the source, batch size 1": (1, 4),
        "the source at n 3": (2, 3),
        "the source at n 9": (2, 9),
        "the source at n 5": (2, 5),
    }
    assert broken(source, cases) == []


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (lambda array: len(array) == 1, ["the source, batch size 1"]),
        (lambda array: len(array) == 3, ["the source, batch size 3"]),
        (lambda array: array.shape[1] > 5, ["the source at n 9"]),
        (lambda array: array.shape[1] == 5, ["the source at n 5"]),
    ],
)
def test_an_error_at_one_size_only_breaks_the_check_at_that_size(
    wrong: Callable[[Array], bool], where: list[str], cases: tuple[reference_cases.ReferenceCases, ...]
) -> None:
    def session(input: Array) -> Arrays:
        return {"logits": source(input)["logits"] * (1.001 if wrong(input) else 1)}

    assert broken(session, cases) == where


@pytest.mark.parametrize(
    ("session", "line"),
    [
        (lambda **inputs: {"other": inputs["input"]}, "returns other instead of logits"),
        (lambda **inputs: {"logits": inputs["input"]}, "against the source, batch size 3, shapes differ"),
        (lambda **inputs: {"logits": inputs["input"][:1]}, "logits has 1 results for 3 cases"),
    ],
)
def test_other_outputs_fail_the_stage(
    session: Session, line: str, cases: tuple[reference_cases.ReferenceCases, ...]
) -> None:
    with pytest.raises(StageFailed, match=line):
        reference_cases.check(session, cases, TOLERANCE)


@pytest.mark.parametrize(("slip", "holds"), [(1.0, True), (1 + 1e-4, True), (1 + 1e-2, False)])
def test_local_noise_is_measured_only_if_the_check_by_golden_noise_fails(
    slip: float, holds: bool, cases: tuple[reference_cases.ReferenceCases, ...]
) -> None:
    measured: list[str] = []

    def tolerance_at(name: str, inputs: Arrays) -> Tolerances:
        measured.append(f"{name}: {inputs['input'].shape}")
        return Tolerances(Limits(1e-3, 0.9, 50.0, 1.0, 1.0), Limits(1.0, 0.0, 0.0, 1.0, 1.0))

    def session(input: Array) -> Arrays:
        return {"logits": source(input)["logits"] * (slip if input.shape[1] == 9 else 1)}

    checks = {check.against: check for check in reference_cases.check(session, cases, TOLERANCE, tolerance_at)}
    assert [not check.broken for check in checks.values()] == [True, True, True, holds, True]
    assert measured == ([] if slip == 1 else ["the source at n 9: (2, 9)"])
    assert (checks["the source at n 9"].tolerance != TOLERANCE) == (slip == 1 + 1e-4)


def test_a_first_case_near_zero_is_judged_on_the_golden_scale() -> None:
    inputs = {"input": np.stack([np.full(4, 1e-7), np.ones(4)]).astype(np.float32)}
    golden = reference_cases.ReferenceCases("FP64", "golden", inputs, source(**inputs))
    _, single, *_ = reference_cases.make(MODEL, {}, golden, source, "the source")

    def off_by(error: float) -> Session:
        return lambda **arrays: {"logits": source(**arrays)["logits"] + error}

    assert broken(off_by(1e-6), (single,)) == []
    assert broken(off_by(1e-5), (single,)) == ["the source, batch size 1"]
