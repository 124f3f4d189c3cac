from __future__ import annotations

import numpy as np
import pytest

from deploytool.data.golden import Edge, Floor, Golden, Noise
from deploytool.parity import edge_checks, metrics
from deploytool.spec import Precision, Preprocessing

SCORES = np.array([[1.0, -2.0, 0.5], [4.0, 1.0, -3.0]])
NOISE = Noise(Floor(1e-6, 1e-6), Floor(1e-3, 1e-3))
ALLOWED = metrics.tolerances(NOISE, {})
SAMPLE = Golden(
    np.zeros((2, 0, 0, 3), np.uint8),
    {},
    {"scores": SCORES},
    {"scores": SCORES, "classes": np.array([[0], [1]])},
    np.full(2, -1),
    Preprocessing(),
    NOISE,
)


def edge(**answers: list[float] | list[int]) -> Edge:
    reference = {name: np.array([answer]) for name, answer in answers.items()}
    return Edge("silence", True, {}, reference, reference)


def broken_figures(
    got: Edge, expected: Edge, *, half: bool = False, tolerance_at: edge_checks.EdgeTolerance = lambda _: ALLOWED
) -> tuple[str, ...]:
    check = edge_checks.check(
        got.outputs, expected, SAMPLE, ALLOWED, tolerance_at, Precision.FP16 if half else Precision.FP32
    )
    assert check is not None
    assert check.against == "FP64 at silence"
    return check.broken


@pytest.mark.parametrize(
    ("error", "half", "holds"),
    [(1e-6, False, True), (1e-4, False, False), (1e-3, True, True), (0.1, True, False), (np.nan, True, False)],
)
def test_the_largest_error_decides(error: float, half: bool, holds: bool) -> None:
    assert (
        broken_figures(edge(scores=[3.0 + error, 1.0, 1.0]), edge(scores=[3.0, 1.0, 1.0]), half=half) == ()
    ) is holds


def test_an_answer_near_zero_is_judged_on_the_scale_of_the_golden_answers() -> None:
    assert broken_figures(edge(scores=[0.0, 0.0, 0.0]), edge(scores=[1e-9, -1e-9, 0.0])) == ()
    assert broken_figures(edge(scores=[1e-2, 0.0, 0.0]), edge(scores=[1e-9, -1e-9, 0.0])) != ()


def test_noise_at_the_edge_is_measured_only_if_the_check_by_golden_noise_fails() -> None:
    measured = list[str]()

    def tolerance_at(case: Edge) -> metrics.Tolerances:
        measured.append(case.name)
        return metrics.tolerances(Noise(Floor(1e-4, 1e-4), NOISE.fp16), {})

    assert broken_figures(edge(scores=[3.0, 1.0, 1.0]), edge(scores=[3.0, 1.0, 1.0]), tolerance_at=tolerance_at) == ()
    assert measured == []
    assert broken_figures(edge(scores=[3.001, 1.0, 1.0]), edge(scores=[3.0, 1.0, 1.0]), tolerance_at=tolerance_at) == ()
    assert broken_figures(edge(scores=[3.1, 1.0, 1.0]), edge(scores=[3.0, 1.0, 1.0]), tolerance_at=tolerance_at) != ()
    assert measured == ["silence"] * 2


def test_labels_are_compared_in_fp32_only() -> None:
    right, wrong = edge(scores=[3.0, 1.0, 1.0], classes=[0]), edge(scores=[3.0, 1.0, 1.0], classes=[2])
    assert broken_figures(wrong, right) != ()
    assert broken_figures(wrong, right, half=True) == ()
    only = edge(classes=[0])
    assert edge_checks.check(only.outputs, only, SAMPLE, ALLOWED, lambda _: ALLOWED, Precision.FP16) is None
