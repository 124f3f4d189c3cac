"""Ranges for quantisation with 8 bits, chosen by the distribution of the values.

The collectors of `onnxruntime.quantization` are not used: they keep the activations of all data that one call gives,
add bins without limit where a later value is larger, and with their default of 128 bins and 128 levels entropy has
a single threshold to choose from, the largest value.
"""

from __future__ import annotations

import numpy as np

from deploytool.precision.int8.histogram import Floats, Spans
from deploytool.precision.int8.value_range import ValueRange

PERCENTILE = 99.99
_LEVELS = 255  # steps from the lowest value of 8 bits to the highest; a symmetric INT8 range has one less
_LINEAR_BINS, _STRIDE = 2048, 16
_CANDIDATES = [2.0 ** (-eighth / 8) for eighth in range(49)]  # parts of the range that are tried: down to 1/64


def min_max(spans: Spans, *, symmetric: bool) -> ValueRange:
    """From the smallest value to the largest, zero included."""
    low, high = min(0.0, float(spans.lower[0])), max(0.0, float(spans.upper[-1]))
    return ValueRange(-max(-low, high), max(-low, high)) if symmetric else ValueRange(low, high)


def percentile(spans: Spans, *, symmetric: bool) -> ValueRange:
    """The central 99.99 % of the values; if symmetric, of the absolute values."""
    tail = (100 - PERCENTILE) / 100
    if symmetric:
        high = _quantile(spans.magnitudes(), 1 - tail)
        return ValueRange(-high, high)
    low, high = _quantile(spans, tail / 2), _quantile(spans, 1 - tail / 2)
    return ValueRange(min(low, 0.0), max(high, 0.0))


def entropy(spans: Spans, *, symmetric: bool) -> ValueRange:
    """The range whose quantised values diverge least from all values (Kullback–Leibler), as TensorRT chose it.

    Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017.
    """
    whole = min_max(spans, symmetric=symmetric)
    largest = max(-whole.low, whole.high)
    one_sided = not symmetric and 0.0 in (whole.low, whole.high)
    bins = _linear(spans.magnitudes(), largest)
    bins[0] = bins[1]  # zeros are exact in every range: ReLU makes so many of them that nothing else would count
    levels = 256 if one_sided else 128
    sizes = range(levels, _LINEAR_BINS + 1, _STRIDE)
    divergences = [_divergence(bins, size, levels) for size in sizes]
    cut = largest * sizes[int(np.argmin(divergences))] / _LINEAR_BINS
    return ValueRange(max(whole.low, -cut), min(whole.high, cut))


def mse(spans: Spans, *, symmetric: bool) -> ValueRange:
    """The range with the least mean squared error of quantisation, of 49 from the whole to its 64th part."""
    whole = min_max(spans, symmetric=symmetric)
    if symmetric:
        return _best(spans, [ValueRange(whole.low * part, whole.high * part) for part in _CANDIDATES])
    best = _best(spans, [ValueRange(whole.low, whole.high * part) for part in _CANDIDATES]) if whole.high else whole
    return _best(spans, [ValueRange(best.low * part, best.high) for part in _CANDIDATES]) if whole.low else best


def squared_error(spans: Spans, chosen: ValueRange) -> float:
    """The mean squared error of 8-bit quantisation in a range, by rounding and clipping; values are even in a bin."""
    total, step = int(spans.counts.sum()), (chosen.high - chosen.low) / _LEVELS
    width = spans.upper - spans.lower
    wide = width > 0
    error = _point_errors(spans.lower[~wide], chosen, step) @ spans.counts[~wide]
    if wide.any():
        lower, upper = spans.lower[wide], spans.upper[wide]
        error += (spans.counts[wide] / width[wide]) @ _bin_errors(lower, upper, chosen, step)
    return float(error / total) if total else 0.0


def _point_errors(values: Floats, chosen: ValueRange, step: float) -> Floats:
    """The squared errors of single values."""
    clipped = values.clip(chosen.low, chosen.high)
    rounded: Floats = np.rint(clipped / step) * step if step else clipped
    return (rounded - values) ** 2


def _bin_errors(lower: Floats, upper: Floats, chosen: ValueRange, step: float) -> Floats:
    """The integral of the squared error from `lower` to `upper`."""
    low, high = (edge.clip(chosen.low, chosen.high) for edge in (lower, upper))
    clipping = (_cube(upper - high) - _cube(lower - low)) / 3  # one of both is zero, or the whole bin is cut off
    return clipping + step**3 * (_rounding(high / step) - _rounding(low / step)) if step else clipping


def _cube(values: Floats) -> Floats:
    return values * values * values


def _rounding(ends: Floats) -> Floats:
    """The integral of the squared distance to the nearest integer, from zero to each of `ends`."""
    nearest = np.rint(ends)
    return nearest / 12 + _cube(ends - nearest) / 3


def _best(spans: Spans, candidates: list[ValueRange]) -> ValueRange:
    errors = [squared_error(spans, candidate) for candidate in candidates]
    return candidates[int(np.argmin(errors))]


def _quantile(spans: Spans, share: float) -> float:
    """The value below which that share of the values lies, linear within a bin."""
    below = np.cumsum(spans.counts)
    wanted = share * float(below[-1])
    index = min(int(np.searchsorted(below, wanted)), len(below) - 1)
    part = (wanted - float(below[index] - spans.counts[index])) / float(spans.counts[index])
    return float(spans.lower[index] + part * (spans.upper[index] - spans.lower[index]))


def _linear(spans: Spans, largest: float) -> Floats:
    """The counts in bins of equal width from zero to the largest value."""
    below = np.append(0, np.cumsum(spans.counts))
    ends = np.stack([spans.lower, spans.upper], 1).ravel()  # nothing lies between the end of a bin and the next one
    shares = np.stack([below[:-1], below[1:]], 1).ravel()
    return np.diff(np.interp(np.linspace(0, largest, _LINEAR_BINS + 1), ends, shares))


def _divergence(bins: Floats, size: int, levels: int) -> float:
    """How far the first `size` bins, with all later ones in the last, are from what `levels` levels keep of them."""
    reference = bins[:size].copy()
    level = np.arange(size) * levels // size
    filled = reference > 0
    sums = np.bincount(level, reference, levels)
    members = np.bincount(level[filled], minlength=levels)
    kept = np.where(filled, sums[level] / np.maximum(members, 1)[level], 0.0)
    reference[-1] += bins[size:].sum()
    if not kept.sum() or ((reference > 0) & (kept == 0)).any():
        return np.inf
    present = reference > 0
    p, q = reference[present] / reference.sum(), kept[present] / kept.sum()
    return float((p * np.log(p / q)).sum())
