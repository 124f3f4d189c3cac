from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deploytool.precision.int8 import thresholds
from deploytool.precision.int8.histogram import BINS, Histogram
from deploytool.precision.int8.value_range import ValueRange

Values = NDArray[np.float32]
BIN = 2.0**-9  # relative width of a bin


def histogram(*parts: Values) -> Histogram:
    made = Histogram()
    for part in parts:
        assert made.add(part)
    return made


def draws(kind: str, count: int = 41_234) -> Values:
    rng = np.random.default_rng(3)
    made: dict[str, Callable[[], NDArray[np.float64]]] = {
        "normal": lambda: rng.normal(0.2, 1.0, count),
        "relu": lambda: np.maximum(rng.normal(-0.5, 2.0, count), 0),
        "laplace": lambda: rng.laplace(0, 3.0, count),
        "outlier": lambda: np.append(rng.normal(0, 1.0, count), 300.0),
        "negative": lambda: -np.abs(rng.normal(0, 1e-6, count)),
        "hardswish": lambda: (x := rng.normal(0, 3, count)) * np.clip(x + 3, 0, 6) / 6,
    }
    return made[kind]().astype(np.float32)


KINDS = ("normal", "relu", "laplace", "outlier", "negative", "hardswish")


def fake_quantised(values: Values, chosen: ValueRange) -> NDArray[np.float64]:
    step = (chosen.high - chosen.low) / 255
    clipped = values.astype(np.float64).clip(chosen.low, chosen.high)
    return np.round(clipped / step) * step if step else clipped * 0


@example([[-(2.0**-149)]])
@given(st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_every_value_is_in_a_bin_that_holds_it_whatever_the_order(parts: list[list[float]]) -> None:
    arrays = [np.array(part, np.float32) for part in parts]
    made, turned = histogram(*arrays), histogram(*arrays[::-1])
    assert (made.counts == turned.counts).all()
    values = np.sort(np.concatenate(arrays).astype(np.float64))
    assert (made.low, made.high, made.total) == (values[0], values[-1], len(values))
    spans = made.spans()
    ends = np.cumsum(spans.counts)
    for lower, upper, start, end in zip(spans.lower, spans.upper, np.append(0, ends[:-1]), ends, strict=True):
        within = values[start:end]
        # of the octaves and of normal numbers: what is smaller is taken as zero
        smallest = max(2.0**-23 * max(-values[0], values[-1]), 2.0**-126)
        assert (within >= lower - smallest).all()
        assert (within <= upper + smallest).all()
        assert upper - lower <= BIN * max(abs(lower), abs(upper)) * 1.01


def test_a_histogram_keeps_its_size() -> None:
    made = Histogram()
    for exponent in range(-40, 38):
        assert made.add(np.array([10.0**exponent, -(10.0**exponent)], np.float32))
    assert made.counts.shape == (2, BINS)
    assert made.total == 156


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_added(value: float) -> None:
    made = histogram(np.ones(3, np.float32))
    assert not made.add(np.array([1.0, value], np.float32))
    assert (made.total, made.high) == (3, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_min_max_is_the_extremes_with_zero(kind: str) -> None:
    values = draws(kind)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    spans = histogram(values[:100], values[100:]).spans()
    assert thresholds.min_max(spans, symmetric=False) == ValueRange(low, high)
    assert thresholds.min_max(spans, symmetric=True) == ValueRange(-max(-low, high), max(-low, high))


@pytest.mark.parametrize("kind", KINDS)
def test_percentile_is_that_of_the_values(kind: str) -> None:
    values = draws(kind)
    spans = histogram(values).spans()
    low, high = np.quantile(values, [0.5e-4, 1 - 0.5e-4], method="inverted_cdf")
    found = thresholds.percentile(spans, symmetric=False)
    assert found.low == pytest.approx(min(low, 0), rel=2 * BIN)
    assert found.high == pytest.approx(max(high, 0), rel=2 * BIN)
    largest = np.quantile(np.abs(values), 0.9999, method="inverted_cdf")
    assert thresholds.percentile(spans, symmetric=True).high == pytest.approx(largest, rel=2 * BIN)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [1.0, 0.3, 0.05])
def test_the_error_is_that_of_quantised_values(kind: str, part: float) -> None:
    values = draws(kind)
    chosen = ValueRange(min(0.0, float(values.min())) * part, max(0.0, float(values.max())) * part)
    error = ((fake_quantised(values, chosen) - values) ** 2).mean()
    assert thresholds.squared_error(histogram(values).spans(), chosen) == pytest.approx(error, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_has_nearly_the_least_error_of_all_ranges(kind: str, symmetric: bool) -> None:
    values = draws(kind)
    spans = histogram(values).spans()
    whole = thresholds.min_max(spans, symmetric=symmetric)
    found = thresholds.mse(spans, symmetric=symmetric)
    highs, lows = ([end * part for part in np.geomspace(1 / 50, 1, 40)] for end in (whole.high, whole.low))
    pairs = zip(lows, highs, strict=True) if symmetric else ((low, high) for low in lows[::3] for high in highs[::3])
    errors = [((fake_quantised(values, ValueRange(*pair)) - values) ** 2).mean() for pair in pairs]
    assert ((fake_quantised(values, found) - values) ** 2).mean() <= 1.1 * min(errors)


def slow_entropy(values: Values, levels: int) -> float:
    """The threshold of the paper, from the values themselves and with plain loops."""
    magnitudes = np.abs(values[values != 0]).astype(np.float64)
    counts = np.histogram(magnitudes, bins=2048, range=(0, magnitudes.max()))[0].astype(float)
    counts[0] = counts[1]
    best, size_found = np.inf, 0
    for size in range(levels, 2049, 16):
        reference = counts[:size].copy()
        reference[-1] += counts[size:].sum()
        quantised = np.zeros(size)
        starts = [-(-level * size // levels) for level in range(levels + 1)]
        for start, end in pairwise(starts):
            members = [index for index in range(start, end) if counts[index] > 0]
            for index in members:
                quantised[index] = sum(counts[start:end]) / len(members)
        if reference[-1] > 0 and quantised[-1] == 0:
            continue
        p, q = reference / reference.sum(), quantised / quantised.sum()
        divergence = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        if divergence < best:
            best, size_found = divergence, size
    return float(magnitudes.max() * size_found / 2048)


def test_entropy_is_the_threshold_of_a_plain_implementation() -> None:
    values = np.append(draws("laplace", 4000), np.float32(60.0))
    found = thresholds.entropy(histogram(values).spans(), symmetric=True)
    assert found.high == pytest.approx(slow_entropy(values, 128), rel=0.05)
    assert found.low == -found.high
    assert found.high < 60


def test_a_tensor_of_zeros_has_a_range() -> None:
    spans = histogram(np.zeros(5, np.float32)).spans()
    for choose in (thresholds.min_max, thresholds.percentile, thresholds.entropy, thresholds.mse):
        for symmetric in (False, True):
            assert choose(spans, symmetric=symmetric) == ValueRange(0.0, 0.0)
