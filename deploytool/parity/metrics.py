"""Compares two answers to the same inputs, and checks the result against a tolerance derived from the noise.

Rounding moves the answers of a correct artifact by an unknown amount, so a tolerance is a multiple of the model's own
numerical noise. The maximum error varies most between runs and has the largest multiple; the root mean square error
hardly varies, and detects faults that the maximum error would let pass. Output parts of different scales are judged
separately, each by its own noise. Labels (classes, indices) are compared by equality.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.data.golden import Arrays, Floor, Golden, Noise, Perturbation
from deploytool.parity import detection_rows, scales
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
from deploytool.tasks.rows import DetectionRows

MARGIN32 = Floor(max_error=16.0, rms=4.0)  # tolerances are these multiples of the noise
MARGIN16 = Floor(max_error=4.0, rms=4.0)
_UNEVEN = 3.0  # the rms error of one case may be that many times the rms error of all cases
_LARGEST_SNR_DB = 400.0  # of equal answers: JSON has no infinity
_WORST = float(np.finfo(np.float64).max)  # the error of NaN and infinity
_FIGURES = ("max_error", "cosine", "snr_db", "top1", "top5", "equal")
_LABEL_TOLERANCE = 0.25  # labels in floating point may differ by this much and still be equal
_MOST_TIES = 0.25  # share of all ties that may be decided differently: rounding flips far fewer, a fault often more
_NO_TIES: Arrays = {}
_EQUAL = Parity(0.0, cosine=1.0, snr_db=_LARGEST_SNR_DB, top1=None, top5=None, invalid=0)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """How the tolerance in a precision follows from noise.

    It is `margin` times the noise. `least` is one rounding, the least noise assumed, and `coarsest` the largest
    tolerance.
    """

    margin: Floor
    least: Floor
    coarsest: float


# BF16 has three bits less than FP16: what one rounding changes is eight times as large, and so are all of its limits
RULES: Mapping[Precision, Rule] = {
    Precision.FP32: Rule(MARGIN32, Floor(2.0**-24, 2.0**-26), COARSEST),
    Precision.FP16: Rule(MARGIN16, Floor(2.0**-11, 2.0**-13), COARSEST),
    Precision.BF16: Rule(MARGIN16, Floor(2.0**-8, 2.0**-10), 8 * COARSEST),
    Precision.INT8: Rule(MARGIN16, Floor(2.0**-8, 2.0**-11), 1.0),  # noise of the kernels, not of the quantisation
    Precision.FP8: Rule(MARGIN16, Floor(2.0**-8, 2.0**-11), 1.0),
}


@dataclass(frozen=True)
class Tolerances:
    """The tolerances of FP32 artifacts, of FP16 artifacts, and of BF16 artifacts if their noise was measured."""

    fp32: Limits
    fp16: Limits
    bf16: Limits | None = None

    def of(self, precision: Precision) -> Limits:
        """The tolerances in a precision whose noise was measured."""
        limits = {Precision.FP32: self.fp32, Precision.FP16: self.fp16, Precision.BF16: self.bf16}[precision]
        assert limits is not None
        return limits


def tolerances(noise: Noise, requested: Mapping[str, float]) -> Tolerances:
    """The tolerances that follow from a model's noise; `requested` may give the maximum error by precision."""
    return Tolerances(
        _limits(noise, Precision.FP32, requested),
        _limits(noise, Precision.FP16, requested),
        _limits(noise, Precision.BF16, requested) if noise.bf16 else None,
    )


def _limits(noise: Noise, precision: Precision, requested: Mapping[str, float]) -> Limits:
    rule = RULES[precision]

    def tolerance(floor: Floor) -> Tolerance:
        return _tolerance(floor, rule, requested.get(precision))

    def limit(moved: Perturbation) -> Limit:
        equal = 1 - _MOST_TIES * moved.tied(precision)
        floor = getattr(moved, precision) or getattr(noise, precision)
        return Limit(moved.part, replace(tolerance(floor), equal=equal))

    swapped = rule.margin.max_error * noise.swapped(precision)
    rows = replace(noise.rows, swapped=swapped) if noise.rows else None
    whole = tolerance(getattr(noise, precision))
    figures = {field.name: getattr(whole, field.name) for field in fields(Tolerance)}
    return Limits(**figures, parts=tuple(map(limit, noise.parts)), rows=rows)


def int8_limits(
    floors: Sequence[tuple[OutputPart, Floor]],
    rows: DetectionRows | None = None,
    swapped: float = 0.0,
    precision: Precision = Precision.INT8,
) -> Limits:
    """The tolerances of a graph in 8 bits against its answers as quantised, from how far sound kernels move each part.

    For labels the floor is the share of elements that differ; `swapped` is that of the detections.
    """
    rule = RULES[precision]

    def limit(part: OutputPart, floor: Floor) -> Limit:
        if not part.labels:
            return Limit(part, _tolerance(floor, rule, None))
        equal = max(0.0, 1 - rule.margin.max_error * floor.max_error)
        return Limit(part, replace(_tolerance(Floor(0.0, 0.0), rule, None), equal=equal))

    parts = tuple(limit(part, floor) for part, floor in floors)
    measured = [floor for part, floor in floors if not part.labels]
    largest = Floor(max((f.max_error for f in measured), default=0.0), max((f.rms for f in measured), default=0.0))
    whole = _tolerance(largest, rule, None)
    figures = {field.name: getattr(whole, field.name) for field in fields(Tolerance)}
    moved_rows = replace(rows, swapped=rule.margin.max_error * swapped) if rows else None
    return Limits(**figures, parts=parts, rows=moved_rows)


def _tolerance(noise: Floor, rule: Rule, requested: float | None) -> Tolerance:
    derived = rule.margin.max_error * max(noise.max_error, rule.least.max_error)
    max_error = min(derived, rule.coarsest) if requested is None else requested
    rms = rule.margin.rms * max(noise.rms, rule.least.rms) * max_error / derived
    cosine, snr_db = 1 - (_UNEVEN * rms) ** 2 / 2, -20 * float(np.log10(rms))
    return Tolerance(max_error, cosine, snr_db, top1=1.0, top5=1.0, noise=noise.max_error)


def check(got: Arrays, expected: Arrays, against: str, tolerance: Tolerance, ties: Arrays = _NO_TIES) -> Check:
    """The comparison of `got` with `expected`, and the figures that break the tolerance, part by part.

    Two classes whose scores differ by at most twice the tolerated error are tied, and either may come first. `ties`
    holds, for outputs compared by equality, the range (least, most) in which rounding alone may move each value.
    Detections that a model selected are aligned before.
    """
    limits, rows = list(_limits_for(expected, tolerance)), _rows(tolerance)
    got, ties = detection_rows.aligned(got, expected, rows, limits), detection_rows.ordered_ties(ties, expected, rows)
    checked = [_check_part(got, expected, limit, ties) for limit in limits]
    worst, *others = sorted(checked, key=_strain, reverse=True)
    parity, shares = worst.parity, [part.parity.equal for part in checked if part.parity.equal]
    if shares and not parity.equal:
        parity = replace(parity, equal=min(shares, key=lambda equal: equal.share))
    return Check(against, parity, worst.tolerance, worst.broken, worst.part, (worst, *others) if others else ())


def _rows(tolerance: Tolerance) -> DetectionRows | None:
    """The detections that a model selected; None for other models."""
    return tolerance.rows if isinstance(tolerance, Limits) else None


def _limits_for(expected: Arrays, tolerance: Tolerance) -> Iterator[Limit]:
    """The parts to compare, each with its tolerance; an output that its known parts do not fit is one part."""
    known = tolerance.parts if isinstance(tolerance, Limits) else ()
    whole = Tolerance(**{field.name: getattr(tolerance, field.name) for field in fields(Tolerance)})
    for name, array in expected.items():
        limits = [limit for limit in known if limit.part.output == name]
        if limits and all(limit.part.fits(array.shape) for limit in limits):
            yield from limits
            continue
        is_float = np.issubdtype(array.dtype, np.floating)
        marks = limits[0].part.marks if limits else ()
        yield Limit(OutputPart(name, marks=marks, labels=not is_float), whole)


def _check_part(got: Arrays, expected: Arrays, limit: Limit, ties: Arrays) -> PartCheck:
    part, tolerance, known = limit.part, limit.tolerance, ties.get(limit.part.output)
    parity = _compare_part(got[part.output], expected[part.output], part, 2 * tolerance.max_error, known)
    if part.labels and known is not None:
        tolerance = replace(tolerance, equal=1 - _MOST_TIES * ties_share(known, part))
    broken = [figure for figure in _FIGURES if _breaks(figure, parity, tolerance)]
    return PartCheck(str(part), parity, tolerance, tuple(broken) + (("invalid",) if parity.invalid else ()))


def check_by_any(
    got: Arrays, expected: Arrays, against: str, allowed: Iterable[Tolerance], ties: Arrays = _NO_TIES
) -> Check:
    """The check by the first tolerance that holds; if none does, by the one that fewest figures break."""
    checks = list[Check]()
    for tolerance in allowed:
        checks.append(check(got, expected, against, tolerance, ties))
        if not checks[-1].broken:
            return checks[-1]
    return min(checks, key=lambda check: len(check.broken))


def deviates(got: Arrays, expected: Arrays, sample: Golden, tolerance: Tolerance) -> bool:
    """Whether a part of `got` breaks the tolerance against `expected` and is further from FP64 than `expected` is."""
    limits, rows = list(_limits_for(expected, tolerance)), _rows(tolerance)
    got, expected = (detection_rows.aligned(arrays, sample.reference, rows, limits) for arrays in (got, expected))
    for limit in limits:
        if _check_part(got, expected, limit, sample.ties32).broken:
            part, reference = limit.part, sample.reference[limit.part.output]
            of_got, of_expected = (
                _compare_part(arrays[part.output], reference, part, 0.0) for arrays in (got, expected)
            )
            if of_got.max_error > of_expected.max_error or of_got.invalid > of_expected.invalid:
                return True
            if of_got.equal and of_expected.equal and of_got.equal.share < of_expected.equal.share:
                return True
    return False


def check_source(check: Check) -> Check:
    """The check of a model's own FP32 answers, which also fails where the noise is larger than rounding can cause."""
    noisy = [
        replace(part, broken=(*part.broken, NOISE)) for part in check.part_checks if part.tolerance.noise > IMPLAUSIBLE
    ]
    if not noisy:
        return check
    plausible = [part for part in check.part_checks if part.tolerance.noise <= IMPLAUSIBLE]
    worst, *others = sorted([*noisy, *plausible], key=lambda part: part.tolerance.noise, reverse=True)
    parts = (worst, *others) if others else ()
    return Check(check.against, worst.parity, worst.tolerance, worst.broken, worst.part, parts)


def _breaks(figure: str, parity: Parity, tolerance: Tolerance) -> bool:
    value, limit = getattr(parity, figure), getattr(tolerance, figure)
    if isinstance(value, Equality):
        return bool(value.wrong) or (value.share < 1 and value.high < limit)
    return value is not None and not (value <= limit if figure == "max_error" else value >= limit)


def _strain(checked: PartCheck) -> tuple[bool, float]:
    """The sort key of parts: broken ones last, then by the share of the tolerance."""
    return bool(checked.broken), _share(checked)


def largest_share(check: Check) -> float:
    """The largest share of its tolerance that the error of a part has: the largest or the root mean square error."""
    return max(map(_share, check.part_checks))


def _share(checked: PartCheck) -> float:
    parity, limits = checked.parity, checked.tolerance
    rms = 10 ** ((limits.snr_db - parity.snr_db) / 20)
    return float(max(parity.max_error / limits.max_error, rms))


def compare(got: Arrays, expected: Arrays, tie: float = 0.0, parts: Sequence[OutputPart] = ()) -> Parity:
    """The distance of `got` from `expected`, each figure that of the worst part; outputs are (cases, ...).

    Without `parts` every output is one part. `tie` is the difference, relative to the largest expected value of a case,
    up to which two classes count as equally good. Raises ValueError where shapes differ.
    """
    chosen = parts or [OutputPart(name) for name in expected]
    parities = [_compare_part(got[part.output], expected[part.output], part, tie) for part in chosen]
    return Parity(
        max_error=max(parity.max_error for parity in parities),
        cosine=min(parity.cosine for parity in parities),
        snr_db=min(parity.snr_db for parity in parities),
        top1=min((parity.top1 for parity in parities if parity.top1 is not None), default=None),
        top5=min((parity.top5 for parity in parities if parity.top5 is not None), default=None),
        invalid=sum(parity.invalid for parity in parities),
        equal=min((parity.equal for parity in parities if parity.equal), key=lambda equal: equal.share, default=None),
    )


def rms_errors(got: Arrays, expected: Arrays) -> Floats:
    """The relative root mean square error of each case, of its worst output; infinite where a value is NaN."""
    by_output = []
    for name, array in expected.items():
        error, signal = (
            np.linalg.norm(np.asarray(values, np.float64).reshape(len(array), -1), axis=1)
            for values in (np.subtract(got[name], array, dtype=np.float64), array)
        )
        by_output.append(np.nan_to_num(error, nan=np.inf) / scales.of_cases(signal))
    largest: Floats = np.max(by_output, axis=0)
    return largest


def _errors(got: Floats, expected: Floats) -> Floats:
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.nan_to_num(np.abs(got - expected), nan=_WORST, posinf=_WORST)
        largest: Floats = difference.reshape(len(difference), -1).max(axis=1, initial=0.0) / scales.of_cases(
            np.abs(expected)
        )
    return largest.clip(max=_WORST)


def _compare_part(
    got: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    part: OutputPart,
    tie: float,
    ties: npt.NDArray[Any] | None = None,
) -> Parity:
    if got.shape != expected.shape:
        raise ValueError(f"shapes differ: {got.shape} and {expected.shape}")
    got_part, expected_part = (np.asarray(part.of(array), np.float64) for array in (got, expected))
    if part.labels:
        return replace(_EQUAL, equal=_equality(got_part, expected_part, part, ties))
    return _compare(got_part, expected_part, part, tie)


def ties_share(ties: npt.NDArray[Any], part: OutputPart) -> float:
    """The share of a part's elements whose range (least, most) in `ties` holds more than one value."""
    least, most = (part.of(end) for end in ties)
    return float((least != most).mean()) if least.size else 0.0


def _equality(got: Floats, expected: Floats, part: OutputPart, ties: npt.NDArray[Any] | None) -> Equality:
    with np.errstate(invalid="ignore"):
        differ = ~(np.abs(got - expected) <= _LABEL_TOLERANCE)
    differ &= ~(part.marked(expected) & same_value(got, expected))
    count, total = int(differ.sum()), int(differ.size)
    low, high = wilson(total - count, total)
    share = 1 - count / total if total else 1.0
    if ties is None:
        return Equality(share, low, high, total, 0, None if count else 0)
    least, most = (np.asarray(part.of(end), np.float64) for end in ties)
    tied = int((differ & (got >= least - _LABEL_TOLERANCE) & (got <= most + _LABEL_TOLERANCE)).sum())
    return Equality(share, low, high, total, tied, count - tied)


def _compare(got: Floats, expected: Floats, part: OutputPart, tie: float) -> Parity:
    marked = part.marked(expected)
    bad = int((~np.isfinite(got) & ~marked).sum()) + int(np.isnan(expected).sum())
    if marked.any():
        bad += int((marked & ~same_value(got, expected)).sum())
        got, expected = np.where(marked, 0.0, got), np.where(marked, 0.0, expected)
    if bad:
        return Parity(_WORST, cosine=-1.0, snr_db=-_LARGEST_SNR_DB, top1=0.0, top5=0.0, invalid=bad)
    ties = tie * scales.of_cases(np.abs(expected))
    scores = np.where(marked, -np.inf, got), np.where(marked, -np.inf, expected)
    return Parity(
        max_error=float(_errors(got, expected).max(initial=0.0)),
        cosine=_cosine(got, expected),
        snr_db=_snr_db(got - expected, expected),
        top1=_agreement(*scores, 1, ties),
        top5=_agreement(*scores, 5, ties),
        invalid=0,
    )


def _cosine(got: Floats, expected: Floats) -> float:
    """The smallest cosine of the cases; that of two zero vectors is 1.

    The angle of a case below the smallest scale counts in proportion to its size, as its errors do in other figures:
    FP32 rounding alone turns a case of few values near zero by more than the largest case allows.
    """
    a, b = got.reshape(len(got), -1), expected.reshape(len(expected), -1)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosines = (a * b).sum(axis=1) / np.where(lengths == 0, 1, lengths)
    sizes = np.linalg.norm(b, axis=1)
    turned = (1 - np.where(both_zero, 1.0, cosines)) * (
        sizes / scales.of_cases(sizes)
    ) ** 2  # half the square of the angle
    return float(1 - turned.max(initial=0.0))


def _snr_db(error: Floats, expected: Floats) -> float:
    """The smallest signal-to-noise ratio of the cases, in dB."""
    noise, signal = (np.linalg.norm(values.reshape(len(values), -1), axis=1) for values in (error, expected))
    if not noise.any():
        return _LARGEST_SNR_DB
    if not signal.any():
        return -_LARGEST_SNR_DB
    return -20 * math.log10((noise / scales.of_cases(signal)).max())


def _agreement(got: Floats, expected: Floats, count: int, ties: Floats) -> float | None:
    """The share of `got`'s top classes that are among or tied with those of `expected`; None without class scores."""
    if expected.ndim != 2 or expected.shape[1] == 1:
        return None
    count = min(count, expected.shape[1])
    best = np.argsort(-got, axis=1, kind="stable")[:, :count]
    last = np.sort(expected, axis=1)[:, -count]
    return float((np.take_along_axis(expected, best, axis=1) >= (last - ties)[:, None]).mean())
