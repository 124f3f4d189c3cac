"""Compares two answers to the same inputs, and holds the result against a tolerance that follows from the noise.

Rounding moves the answers of a sound artifact, and nobody knows exactly how far: so many times the noise of the model
itself is allowed. The largest error of all varies most and gets the most room; the root mean square hardly varies, and
is what notices a fault that the largest error would let pass. Parts of an answer that have scales of their own are
judged one by one, each by its own noise; numbers of something (classes, places) are equal or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.data.golden import Arrays, Floor, Golden, Noise
from deploytool.parity.agreement import wilson
from deploytool.results.output_parts import OutputPart, same_value
from deploytool.results.report import (
    COARSEST,
    IMPLAUSIBLE,
    NOISE,
    Check,
    Equality,
    Limit,
    Limits,
    Parity,
    PartCheck,
    Tolerance,
)
from deploytool.spec import Precision

ROOM32 = Floor(max_error=16.0, rms=4.0)  # times the noise
ROOM16 = Floor(max_error=4.0, rms=4.0)
_ONCE32, _ONCE16 = Floor(2.0**-24, 2.0**-26), Floor(2.0**-11, 2.0**-13)  # rounded once: no noise counts for less
_FAINT = 0.1  # of the loudest case: fainter ones are held to an error of that size, or their noise would rule
_UNEVEN = 3.0  # one case may err that much more than all of them together
_LARGEST_SNR_DB = 400.0  # what equal answers score: JSON has no infinity
_WORST = float(np.finfo(np.float64).max)  # the error of what is no number
_FIGURES = ("max_error", "cosine", "snr_db", "top1", "top5", "equal")
_NEARLY = 0.25  # a whole number in floating point may be off by so much, and still be meant
_MOST_TIES = 0.25  # of all that is tied may be decided otherwise: rounding turns far fewer, and a fault many
_NO_TIES: Arrays = {}
_EQUAL = Parity(0.0, cosine=1.0, snr_db=_LARGEST_SNR_DB, top1=None, top5=None, bad=0)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tolerances:
    """The worst that passes in FP32, and in FP16."""

    fp32: Limits
    fp16: Limits


def tolerances(noise: Noise, wanted: Mapping[str, float]) -> Tolerances:
    """What follows from the noise of a model; `wanted` may name the largest error itself, for "fp32" and "fp16"."""
    return Tolerances(
        _limits(noise, Precision.FP32, ROOM32, _ONCE32, wanted.get(Precision.FP32)),
        _limits(noise, Precision.FP16, ROOM16, _ONCE16, wanted.get(Precision.FP16)),
    )


def _limits(noise: Noise, precision: Precision, room: Floor, least: Floor, wanted: float | None) -> Limits:
    def tolerance(floor: Floor) -> Tolerance:
        return _tolerance(floor, room, least, wanted)

    tied = {each.part: each.tied32 if precision is Precision.FP32 else each.tied16 for each in noise.parts}
    parts = tuple(
        Limit(each.part, replace(tolerance(getattr(each, precision)), equal=1 - _MOST_TIES * tied[each.part]))
        for each in noise.parts
    )
    others = tolerance(getattr(noise, precision))
    return Limits(**{field.name: getattr(others, field.name) for field in fields(Tolerance)}, parts=parts)


def _tolerance(noise: Floor, room: Floor, least: Floor, wanted: float | None) -> Tolerance:
    largest = room.max_error * max(noise.max_error, least.max_error)
    most = min(largest, COARSEST) if wanted is None else wanted
    rms = room.rms * max(noise.rms, least.rms) * most / largest
    cosine, snr_db = 1 - (_UNEVEN * rms) ** 2 / 2, -20 * float(np.log10(rms))
    return Tolerance(most, cosine, snr_db, top1=1.0, top5=1.0, noise=noise.max_error)


def check(got: Arrays, expected: Arrays, against: str, tolerance: Tolerance, ties: Arrays = _NO_TIES) -> Check:
    """The comparison of `got` with `expected`, and which figures break the tolerance, part by part.

    Two classes whose scores lie within twice the tolerated error are tied, and either may come first. `ties` says of
    outputs that are compared by equality where rounding alone may decide otherwise, if anybody knows.
    """
    found = [_judged(got, expected, limit, ties) for limit in _chosen(expected, tolerance)]
    worst, *others = sorted(found, key=_strain, reverse=True)
    parity, broken, counted = worst.parity, worst.broken, [each.parity.equal for each in found if each.parity.equal]
    if counted and not parity.equal:
        parity = replace(parity, equal=min(counted, key=lambda equal: equal.share))
    return Check(against, parity, worst.tolerance, broken, worst.part, (worst, *others) if others else ())


def _chosen(expected: Arrays, tolerance: Tolerance) -> Iterator[Limit]:
    """What to compare, and by which tolerance; an output of another size than the parts were found for is one part."""
    known = tolerance.parts if isinstance(tolerance, Limits) else ()
    others = Tolerance(**{field.name: getattr(tolerance, field.name) for field in fields(Tolerance)})
    for name, array in expected.items():
        mine = [limit for limit in known if limit.part.output == name]
        if mine and all(limit.part.fits(array.shape) for limit in mine):
            yield from mine
            continue
        amounts = np.issubdtype(array.dtype, np.floating)
        marks = mine[0].part.marks if mine else ()
        yield Limit(OutputPart(name, marks=marks, labels=not amounts), others)


def _judged(got: Arrays, expected: Arrays, limit: Limit, ties: Arrays) -> PartCheck:
    part, tolerance, known = limit.part, limit.tolerance, ties.get(limit.part.output)
    parity = _of_part(got[part.output], expected[part.output], part, 2 * tolerance.max_error, known)
    if part.labels and known is not None:
        tolerance = replace(tolerance, equal=1 - _MOST_TIES * ties_share(known, part))
    worse = [figure for figure in _FIGURES if _breaks(figure, parity, tolerance)]
    return PartCheck(str(part), parity, tolerance, tuple(worse) + (("bad",) if parity.bad else ()))


def deviates(got: Arrays, expected: Arrays, sample: Golden, tolerance: Tolerance) -> bool:
    """Whether a part of `got` is beyond FP32's tolerance of `expected`, and further from FP64 than that is itself."""
    for limit in _chosen(expected, tolerance):
        if _judged(got, expected, limit, sample.ties32).broken:
            name, part = limit.part.output, limit.part
            mine, own = (_of_part(each[name], sample.reference[name], part, 0.0) for each in (got, expected))
            if mine.max_error > own.max_error or mine.bad > own.bad:
                return True
            if mine.equal and own.equal and mine.equal.share < own.equal.share:
                return True
    return False


def check_source(check: Check) -> Check:
    """The check of a model's own FP32 answers; it does not hold either where rounding alone makes no such noise."""
    noisy = [replace(one, broken=(*one.broken, NOISE)) for one in check.each if one.tolerance.noise > IMPLAUSIBLE]
    if not noisy:
        return check
    calm = [one for one in check.each if one.tolerance.noise <= IMPLAUSIBLE]
    worst, *others = sorted([*noisy, *calm], key=lambda one: one.tolerance.noise, reverse=True)
    parts = (worst, *others) if others else ()
    return Check(check.against, worst.parity, worst.tolerance, worst.broken, worst.part, parts)


def _breaks(figure: str, parity: Parity, tolerance: Tolerance) -> bool:
    value, limit = getattr(parity, figure), getattr(tolerance, figure)
    if isinstance(value, Equality):
        return bool(value.wrong) or (value.share < 1 and value.high < limit)
    return value is not None and not (value <= limit if figure == "max_error" else value >= limit)


def _strain(found: PartCheck) -> tuple[bool, float]:
    """How near a part comes to its limits, or how far beyond: what to sort by."""
    parity, limits = found.parity, found.tolerance
    largest = parity.max_error / limits.max_error
    rms = 10 ** ((limits.snr_db - parity.snr_db) / 20)
    return bool(found.broken), max(largest, rms)


def compare(got: Arrays, expected: Arrays, tie: float = 0.0, parts: Sequence[OutputPart] = ()) -> Parity:
    """How far `got` lies from `expected`: the worst part decides; outputs are (cases, ...) of the same shapes.

    Without `parts` every output is one. `tie` is the lead, relative to the largest expected value of a case, up to
    which two classes are equally good.
    """
    chosen = parts or [OutputPart(name) for name in expected]
    each = [_of_part(got[part.output], expected[part.output], part, tie) for part in chosen]
    return Parity(
        max_error=max(parity.max_error for parity in each),
        cosine=min(parity.cosine for parity in each),
        snr_db=min(parity.snr_db for parity in each),
        top1=min((parity.top1 for parity in each if parity.top1 is not None), default=None),
        top5=min((parity.top5 for parity in each if parity.top5 is not None), default=None),
        bad=sum(parity.bad for parity in each),
        equal=min((each.equal for each in each if each.equal), key=lambda equal: equal.share, default=None),
    )


def rms_errors(got: Arrays, expected: Arrays) -> Floats:
    """The root mean square error of each case, relative to that of its expected values; infinite where it is bad."""
    worst = []
    for name, array in expected.items():
        error, signal = (
            np.linalg.norm(np.asarray(each, np.float64).reshape(len(array), -1), axis=1)
            for each in (np.subtract(got[name], array, dtype=np.float64), array)
        )
        worst.append(np.nan_to_num(error, nan=np.inf) / _scales(signal))
    largest: Floats = np.max(worst, axis=0)
    return largest


def _errors(got: Floats, expected: Floats) -> Floats:
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.nan_to_num(np.abs(got - expected), nan=_WORST, posinf=_WORST)
        largest: Floats = apart.reshape(len(apart), -1).max(axis=1, initial=0.0) / _scales(np.abs(expected))
    return largest.clip(max=_WORST)


def _scales(sizes: Floats) -> Floats:
    """What errors are relative to: the largest of each case, but no less than a tenth of the largest of all cases."""
    largest: Floats = sizes.reshape(len(sizes), -1).max(axis=1, initial=0.0)
    return np.maximum(largest, _FAINT * largest.max(initial=0.0)) if largest.any() else np.ones(len(sizes))


def _of_part(
    got: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    part: OutputPart,
    tie: float,
    ties: npt.NDArray[Any] | None = None,
) -> Parity:
    if got.shape != expected.shape:
        raise ValueError(f"shapes differ: {got.shape} and {expected.shape}")
    mine, theirs = (np.asarray(part.of(each), np.float64) for each in (got, expected))
    if part.labels:
        return replace(_EQUAL, equal=_equality(mine, theirs, part, ties))
    return _compare(mine, theirs, part, tie)


def ties_share(ties: npt.NDArray[Any], part: OutputPart) -> float:
    """The share of the elements of a part that rounding may decide otherwise; `ties` are its (least, most)."""
    least, most = (part.of(end) for end in ties)
    return float((least != most).mean()) if least.size else 0.0


def _equality(got: Floats, expected: Floats, part: OutputPart, ties: npt.NDArray[Any] | None) -> Equality:
    with np.errstate(invalid="ignore"):
        differ = ~(np.abs(got - expected) <= _NEARLY)
    differ &= ~(part.marked(expected) & same_value(got, expected))
    count, several = int(differ.sum()), int(differ.size)
    low, high = wilson(several - count, several)
    share = 1 - count / several if several else 1.0
    if ties is None:
        return Equality(share, low, high, several, 0, None if count else 0)
    least, most = (np.asarray(part.of(end), np.float64) for end in ties)
    tied = int((differ & (got >= least - _NEARLY) & (got <= most + _NEARLY)).sum())
    return Equality(share, low, high, several, tied, count - tied)


def _compare(got: Floats, expected: Floats, part: OutputPart, tie: float) -> Parity:
    marked = part.marked(expected)
    bad = int((~np.isfinite(got) & ~marked).sum()) + int(np.isnan(expected).sum())
    if marked.any():
        bad += int((marked & ~same_value(got, expected)).sum())
        got, expected = np.where(marked, 0.0, got), np.where(marked, 0.0, expected)
    if bad:
        return Parity(_WORST, cosine=-1.0, snr_db=-_LARGEST_SNR_DB, top1=0.0, top5=0.0, bad=bad)
    ties = tie * _scales(np.abs(expected))
    scores = np.where(marked, -np.inf, got), np.where(marked, -np.inf, expected)
    return Parity(
        max_error=float(_errors(got, expected).max(initial=0.0)),
        cosine=_cosine(got, expected),
        snr_db=_snr_db(got - expected, expected),
        top1=_agreement(*scores, 1, ties),
        top5=_agreement(*scores, 5, ties),
        bad=0,
    )


def _cosine(got: Floats, expected: Floats) -> float:
    """The smallest cosine over the cases; two zero vectors agree."""
    a, b = got.reshape(len(got), -1), expected.reshape(len(expected), -1)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosines = (a * b).sum(axis=1) / np.where(lengths == 0, 1, lengths)
    return float(np.where(both_zero, 1.0, cosines).min(initial=1.0))


def _snr_db(error: Floats, expected: Floats) -> float:
    """The smallest over the cases."""
    noise, signal = (np.linalg.norm(each.reshape(len(each), -1), axis=1) for each in (error, expected))
    if not noise.any():
        return _LARGEST_SNR_DB
    if not signal.any():
        return -_LARGEST_SNR_DB
    return -20 * math.log10((noise / _scales(signal)).max())


def _agreement(got: Floats, expected: Floats, count: int, ties: Floats) -> float | None:
    """The share of `got`'s best classes that are among `expected`'s or tied with them; None if these are no classes."""
    if expected.ndim != 2 or expected.shape[1] == 1:
        return None
    count = min(count, expected.shape[1])
    best = np.argsort(-got, axis=1, kind="stable")[:, :count]
    last = np.sort(expected, axis=1)[:, -count]
    return float((np.take_along_axis(expected, best, axis=1) >= (last - ties)[:, None]).mean())
