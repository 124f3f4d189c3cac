from __future__ import annotations

import numpy as np
import pytest

from deploytool.measure import parity
from deploytool.report import Parity, Tolerance

EXPECTED = np.random.default_rng(0).normal(size=(4, 20))


def of(got: object, expected: object = EXPECTED) -> Parity:
    return parity.compare({"logits": np.asarray(got)}, {"logits": np.asarray(expected)})


def test_equal_answers() -> None:
    found = of(EXPECTED)
    assert (found.max_error, found.snr_db, found.top1, found.top5, found.bad) == (0.0, 400.0, 1.0, 1.0, 0)
    assert found.cosine == pytest.approx(1.0)


def test_the_error_is_relative_to_the_largest_output() -> None:
    got = EXPECTED.copy()
    got[1, 2] += 0.5
    found = of(got)
    assert found.max_error == pytest.approx(0.5 / np.abs(EXPECTED).max())
    assert found.snr_db == pytest.approx(10 * np.log10((EXPECTED**2).sum() / 0.25))
    assert found.cosine < 1


def test_the_error_is_symmetric_and_has_no_trouble_with_zeros() -> None:
    assert of([[0.0, 1.0]], [[0.0, 2.0]]).max_error == of([[0.0, 3.0]], [[0.0, 2.0]]).max_error == 0.5
    assert of([[0.0, 0.0]], [[0.0, 0.0]]).max_error == 0.0
    assert of([[0.1, 0.0]], [[0.0, 0.0]]).max_error == pytest.approx(0.1)


def test_swapped_classes_lower_the_agreement() -> None:
    got = EXPECTED.copy()
    best = got[0].argmax()
    got[0, best] = got[0].min() - 1
    found = of(got)
    assert found.top1 == 0.75
    assert found.top5 == pytest.approx((3 + 4 / 5) / 4)


def test_fewer_classes_than_five() -> None:
    assert of([[1.0, 2.0]], [[1.0, 2.0]]).top5 == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_bad_value_fails_everything(value: float) -> None:
    got = EXPECTED.copy()
    got[3, 3] = value
    check = parity.check({"logits": got}, {"logits": EXPECTED}, "source", parity.FP16)
    assert check.parity.bad == 1
    assert set(check.broken) == {"max_error", "cosine", "snr_db", "top1", "top5", "bad"}
    assert of(EXPECTED, got).bad == 1


def test_the_worst_output_decides() -> None:
    worse = EXPECTED + 0.1
    found = parity.compare({"a": EXPECTED, "b": worse}, {"a": EXPECTED, "b": EXPECTED})
    assert found.max_error == of(worse).max_error


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes differ: \(4, 19\) and \(4, 20\)"):
        of(EXPECTED[:, :19])


@pytest.mark.parametrize(("tolerance", "limit"), [(parity.FP32, 1e-5), (parity.FP16, 2e-3)])
@pytest.mark.parametrize(("part", "broken"), [(0.95, False), (1.05, True)])
def test_tolerances_bite_where_they_say(tolerance: Tolerance, limit: float, part: float, broken: bool) -> None:
    got = EXPECTED.copy()
    got[2, 7] += part * limit * np.abs(EXPECTED).max()
    check = parity.check({"logits": got}, {"logits": EXPECTED}, "source", tolerance)
    assert ("max_error" in check.broken) is broken
