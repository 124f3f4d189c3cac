from __future__ import annotations

import numpy as np
import pytest

from deploytool.data.golden import Floor, Noise
from deploytool.parity import metrics
from deploytool.results.report import COARSEST, Parity, Tolerance

EXPECTED = np.random.default_rng(0).normal(size=(4, 20))
NOISE = Noise(Floor(4e-7, 2e-7), Floor(1e-3, 4e-4))
ALLOWED = metrics.tolerances(NOISE, {})


def parity(got: object, expected: object = EXPECTED) -> Parity:
    return metrics.compare({"logits": np.asarray(got)}, {"logits": np.asarray(expected)})


def test_equal_answers_have_no_error() -> None:
    found = parity(EXPECTED)
    assert (found.max_error, found.snr_db, found.top1, found.top5, found.invalid) == (0.0, 400.0, 1.0, 1.0, 0)
    assert found.cosine == pytest.approx(1.0)


def test_the_error_is_relative_to_the_largest_output_of_its_case() -> None:
    got = EXPECTED.copy()
    got[1, 2] += 0.5
    found = parity(got)
    assert found.max_error == pytest.approx(0.5 / np.abs(EXPECTED[1]).max())
    assert found.snr_db == pytest.approx(10 * np.log10((EXPECTED[1] ** 2).sum() / 0.25))
    assert found.cosine < 1


def test_the_error_is_symmetric_and_defined_for_zeros() -> None:
    assert parity([[0.0, 1.0]], [[0.0, 2.0]]).max_error == parity([[0.0, 3.0]], [[0.0, 2.0]]).max_error == 0.5
    assert parity([[0.0, 0.0]], [[0.0, 0.0]]).max_error == 0.0
    assert parity([[0.1, 0.0]], [[0.0, 0.0]]).max_error == pytest.approx(0.1)


def test_a_large_case_masks_no_errors_of_others_and_a_small_one_does_not_decide() -> None:
    large, got = EXPECTED.copy(), EXPECTED.copy()
    large[0] *= 1000
    got[0] *= 1000
    got[1, 2] += 0.5
    assert parity(got, large).max_error == pytest.approx(0.5 / (0.1 * np.abs(large[0]).max()))
    large[0] /= 200
    got[0] /= 200
    assert parity(got, large).max_error == pytest.approx(0.5 / np.abs(EXPECTED[1]).max())


def test_the_angle_of_a_case_near_zero_counts_on_the_scale_of_the_largest() -> None:
    """A voice detector at two samples: silence gives probabilities near zero, which FP32 rounding moves by 4e-8."""
    expected = np.array([[0.31317827, 0.00794735], [0.00042335, 0.00028644]])
    got = expected + np.array([[6.2e-8, 0.0], [3.7e-8, 0.0]])
    limits = metrics.tolerances(Noise(Floor(1.2e-6, 1.6e-6), Floor(1e-3, 1e-3)), {}).fp32
    assert metrics.check({"probability": got}, {"probability": expected}, "FP64", limits).broken == ()
    got[1] += [0.0, 6e-6]
    assert "snr_db" in metrics.check({"probability": got}, {"probability": expected}, "FP64", limits).broken
    got[0] = expected[0, ::-1]
    assert "cosine" in metrics.check({"probability": got}, {"probability": expected}, "FP64", limits).broken


def test_swapped_classes_lower_the_agreement() -> None:
    got = EXPECTED.copy()
    best = got[0].argmax()
    got[0, best] = got[0].min() - 1
    found = parity(got)
    assert found.top1 == 0.75
    assert found.top5 == pytest.approx((3 + 4 / 5) / 4)


def test_top5_of_fewer_than_five_classes() -> None:
    assert parity([[1.0, 2.0]], [[1.0, 2.0]]).top5 == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_bad_value_fails_everything(value: float) -> None:
    got = EXPECTED.copy()
    got[3, 3] = value
    check = metrics.check({"logits": got}, {"logits": EXPECTED}, "source", ALLOWED.fp16)
    assert check.parity.invalid == 1
    assert set(check.broken) == {"max_error", "cosine", "snr_db", "top1", "top5", "invalid"}
    assert parity(EXPECTED, got).invalid == 1


def test_the_worst_output_decides() -> None:
    worse = EXPECTED + 0.1
    found = metrics.compare({"a": EXPECTED, "b": worse}, {"a": EXPECTED, "b": EXPECTED})
    assert found.max_error == parity(worse).max_error


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes differ: \(4, 19\) and \(4, 20\)"):
        parity(EXPECTED[:, :19])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("part", "broken"), [(0.95, False), (1.05, True)])
def test_the_maximum_error_breaks_its_tolerance_exactly_beyond_it(precision: str, part: float, broken: bool) -> None:
    tolerance: Tolerance = getattr(ALLOWED, precision)
    got = EXPECTED.copy()
    got[2, 7] += part * tolerance.max_error * np.abs(EXPECTED[2]).max()
    check = metrics.check({"logits": got}, {"logits": EXPECTED}, "source", tolerance)
    assert ("max_error" in check.broken) is broken


def test_tolerances_follow_from_the_noise() -> None:
    assert ALLOWED.fp32.max_error == pytest.approx(16 * NOISE.fp32.max_error)
    assert ALLOWED.fp16.max_error == pytest.approx(4 * NOISE.fp16.max_error)
    twice = metrics.tolerances(Noise(NOISE.fp32, Floor(2e-3, 8e-4)), {})
    assert twice.fp32 == ALLOWED.fp32
    assert twice.fp16.max_error == 2 * ALLOWED.fp16.max_error
    assert twice.fp16.snr_db == pytest.approx(ALLOWED.fp16.snr_db - 20 * np.log10(2))
    assert twice.fp16.cosine < ALLOWED.fp16.cosine < 1


def test_a_tolerance_is_at_most_the_coarsest() -> None:
    for noise in (0.1, 1.0):
        wild = metrics.tolerances(Noise(NOISE.fp32, Floor(noise, noise)), {}).fp16
        assert wild.max_error == COARSEST
        assert wild.snr_db == pytest.approx(-20 * np.log10(COARSEST))


def test_a_model_without_noise_is_allowed_one_rounding() -> None:
    calm = metrics.tolerances(Noise(Floor(0.0, 0.0), Floor(0.0, 0.0)), {})
    assert calm.fp32.max_error == 16 * 2.0**-24
    assert calm.fp16.max_error == 4 * 2.0**-11


def test_a_requested_tolerance_scales_all_its_figures() -> None:
    requested = metrics.tolerances(NOISE, {"fp16": 1e-3})
    assert requested.fp32 == ALLOWED.fp32
    assert requested.fp16.max_error == 1e-3
    assert requested.fp16.snr_db == pytest.approx(ALLOWED.fp16.snr_db + 20 * np.log10(4))


def test_a_small_error_everywhere_breaks_the_signal_to_noise_ratio_only() -> None:
    got = EXPECTED + ALLOWED.fp16.max_error * np.abs(EXPECTED).max(axis=1, keepdims=True) * 0.95 * np.sign(EXPECTED)
    check = metrics.check({"logits": got}, {"logits": EXPECTED}, "source", ALLOWED.fp16)
    assert "snr_db" in check.broken
    assert "max_error" not in check.broken
