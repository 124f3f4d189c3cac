"""The noise of errors that few cases have: the largest of few draws says little about it."""

from __future__ import annotations

import numpy as np
import pytest

from deploytool.parity import noise_floor
from deploytool.results.output_parts import OutputPart

PART = OutputPart("y")
TRUTH = {"y": np.ones((4, 10))}


def answers(*errors: float) -> list[dict[str, np.ndarray]]:
    """Answers whose first element of the first case is off by so much."""
    found = []
    for error in errors:
        moved = TRUTH["y"].copy()
        moved[0, 0] += error
        found.append({"y": moved})
    return found


def test_errors_that_all_cases_have_count_as_they_are() -> None:
    moved = [{"y": TRUTH["y"] + sign * 0.01} for sign in (1, -1, 1)]
    floor = noise_floor.rare_floor(moved, TRUTH, PART)
    assert [floor.max_error, floor.rms] == pytest.approx([0.01, 0.01])


def test_an_error_of_one_case_counts_half_however_many_have_none() -> None:
    for others in (3, 300):
        floor = noise_floor.rare_floor(answers(0.1, *[0.0] * others), TRUTH, PART)
        assert [floor.max_error, floor.rms] == pytest.approx([0.05, 0.05 / np.sqrt(10)])


def test_masked_values_do_not_count_and_neither_do_answers_that_overflow() -> None:
    truth = {"y": TRUTH["y"].copy()}
    truth["y"][1, 1] = np.inf
    moved, overflow = truth["y"] + 0.01, truth["y"].copy()
    overflow[2, 2] = np.inf
    floor = noise_floor.rare_floor([{"y": moved}, {"y": overflow}], truth, PART)
    assert floor.max_error == pytest.approx(0.01)
    assert noise_floor.rare_floor([{"y": overflow}], truth, PART).max_error == 1.0
