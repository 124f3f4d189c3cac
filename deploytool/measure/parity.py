"""Compares two answers to the same inputs, and holds the result against a tolerance that follows from the noise.

Rounding moves the answers of a sound artifact, and nobody knows exactly how far: so many times the noise of the model
itself is allowed. The largest error of all varies most and gets the most room; the root mean square hardly varies, and
is what notices a fault that the largest error would let pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from deploytool.golden import Arrays, Floor, Noise
from deploytool.report import Check, Parity, Tolerance

COARSEST = 1e-2  # beyond one percent of the largest output, decisions with a clear margin could fall otherwise
ROOM32 = Floor(max_error=16.0, rms=4.0)  # times the noise
ROOM16 = Floor(max_error=4.0, rms=4.0)
_ONCE32, _ONCE16 = Floor(2.0**-24, 2.0**-26), Floor(2.0**-11, 2.0**-13)  # rounded once: no noise counts for less
_FAINT = 0.1  # of the loudest case: fainter ones are held to an error of that size, or their noise would rule
_UNEVEN = 3.0  # one case may err that much more than all of them together
_LARGEST_SNR_DB = 400.0  # what equal answers score: JSON has no infinity
_WORST = float(np.finfo(np.float64).max)  # the error of what is no number

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tolerances:
    """The worst that passes in FP32, and in FP16."""

    fp32: Tolerance
    fp16: Tolerance


def tolerances(noise: Noise, wanted: Mapping[str, float]) -> Tolerances:
    """What follows from the noise of a model; `wanted` may name the largest error itself, for "fp32" and "fp16"."""
    return Tolerances(
        _tolerance(noise.fp32, ROOM32, _ONCE32, wanted.get("fp32")),
        _tolerance(noise.fp16, ROOM16, _ONCE16, wanted.get("fp16")),
    )


def _tolerance(noise: Floor, room: Floor, least: Floor, wanted: float | None) -> Tolerance:
    largest = room.max_error * max(noise.max_error, least.max_error)
    most = min(largest, COARSEST) if wanted is None else wanted
    rms = room.rms * max(noise.rms, least.rms) * most / largest
    return Tolerance(most, 1 - (_UNEVEN * rms) ** 2 / 2, -20 * float(np.log10(rms)), top1=1.0, top5=1.0)


def check(got: Arrays, expected: Arrays, against: str, tolerance: Tolerance) -> Check:
    """The comparison of `got` with `expected`, and which figures break the tolerance.

    Two classes whose scores lie within twice the tolerated error are tied, and either may come first.
    """
    parity = compare(got, expected, tie=2 * tolerance.max_error)
    worse = [field.name for field in fields(tolerance) if _breaks(field.name, parity, tolerance)]
    return Check(against, parity, tolerance, tuple(worse) + (("bad",) if parity.bad else ()))


def _breaks(figure: str, parity: Parity, tolerance: Tolerance) -> bool:
    value, limit = getattr(parity, figure), getattr(tolerance, figure)
    return value is not None and not (value <= limit if figure == "max_error" else value >= limit)


def compare(got: Arrays, expected: Arrays, tie: float = 0.0) -> Parity:
    """How far `got` lies from `expected`: the worst output decides; outputs are (cases, ...) of the same shapes.

    `tie` is the lead, relative to the largest expected value of a case, up to which two classes are equally good.
    """
    pairs = [(np.asarray(got[name], np.float64), np.asarray(expected[name], np.float64)) for name in expected]
    each = [_compare(*pair, tie) for pair in pairs]
    return Parity(
        max_error=max(parity.max_error for parity in each),
        cosine=min(parity.cosine for parity in each),
        snr_db=min(parity.snr_db for parity in each),
        top1=min((parity.top1 for parity in each if parity.top1 is not None), default=None),
        top5=min((parity.top5 for parity in each if parity.top5 is not None), default=None),
        bad=sum(parity.bad for parity in each),
    )


def errors(got: Arrays, expected: Arrays) -> Floats:
    """The largest error of each case, relative to its largest expected value; infinite where it is bad."""
    worst = [_errors(np.asarray(got[name], np.float64), np.asarray(expected[name], np.float64)) for name in expected]
    largest: Floats = np.max(worst, axis=0)
    return largest


def deviations(got: Arrays, expected: Arrays) -> Floats:
    """The root mean square error of each case, relative to that of its expected values; infinite where it is bad."""
    worst = []
    for name, array in expected.items():
        error, signal = (
            np.linalg.norm(np.asarray(each, np.float64).reshape(len(array), -1), axis=1)
            for each in (got[name] - array, array)
        )
        worst.append(np.nan_to_num(error, nan=np.inf) / _scales(signal))
    largest: Floats = np.max(worst, axis=0)
    return largest


def _errors(got: Floats, expected: Floats) -> Floats:
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.nan_to_num(np.abs(got - expected), nan=_WORST, posinf=_WORST)
        largest: Floats = apart.reshape(len(apart), -1).max(axis=1) / _scales(np.abs(expected))
    return largest.clip(max=_WORST)


def _scales(sizes: Floats) -> Floats:
    """What errors are relative to: the largest of each case, but no less than a tenth of the largest of all cases."""
    largest: Floats = sizes.reshape(len(sizes), -1).max(axis=1, initial=0.0)
    return np.maximum(largest, _FAINT * largest.max(initial=0.0)) if largest.any() else np.ones(len(sizes))


def _compare(got: Floats, expected: Floats, tie: float) -> Parity:
    if got.shape != expected.shape:
        raise ValueError(f"shapes differ: {got.shape} and {expected.shape}")
    bad = int((~np.isfinite(got)).sum() + (~np.isfinite(expected)).sum())
    if bad:
        return Parity(_WORST, cosine=-1.0, snr_db=-_LARGEST_SNR_DB, top1=0.0, top5=0.0, bad=bad)
    ties = tie * _scales(np.abs(expected))
    return Parity(
        max_error=float(_errors(got, expected).max(initial=0.0)),
        cosine=_cosine(got, expected),
        snr_db=_snr_db(got - expected, expected),
        top1=_agreement(got, expected, 1, ties),
        top5=_agreement(got, expected, 5, ties),
        bad=0,
    )


def _cosine(got: Floats, expected: Floats) -> float:
    """The smallest cosine over the cases; two zero vectors agree."""
    a, b = got.reshape(len(got), -1), expected.reshape(len(expected), -1)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosines = (a * b).sum(axis=1) / np.where(lengths == 0, 1, lengths)
    return float(np.where(both_zero, 1.0, cosines).min())


def _snr_db(error: Floats, expected: Floats) -> float:
    """The smallest over the cases."""
    noise, signal = (np.linalg.norm(each.reshape(len(each), -1), axis=1) for each in (error, expected))
    if not noise.any():
        return _LARGEST_SNR_DB
    if not signal.any():
        return -_LARGEST_SNR_DB
    return -20 * float(np.log10((noise / _scales(signal)).max()))


def _agreement(got: Floats, expected: Floats, count: int, ties: Floats) -> float | None:
    """The share of `got`'s best classes that are among `expected`'s or tied with them; None if these are no classes."""
    if expected.ndim != 2 or expected.shape[1] == 1:
        return None
    count = min(count, expected.shape[1])
    best = np.argsort(-got, axis=1, kind="stable")[:, :count]
    last = np.sort(expected, axis=1)[:, -count]
    return float((np.take_along_axis(expected, best, axis=1) >= (last - ties)[:, None]).mean())
