"""Finds the output parts that have scales of their own, so that large values cannot mask errors of small ones.

Boxes in pixels and scores from 0 to 1 are two parts of one output. A channel that is small by chance is not a part: its
rounding errors are as large as those of its neighbours, since the same arithmetic computes them, while the rounding
errors of a separate part are small like its values. Where rounding errors do not decide, adjacency of channels does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.data.golden import Arrays
from deploytool.results.output_parts import OutputPart

_STEP, _APART, _FAR = 3.0, 10.0, 30.0  # ratios of channel sizes; `_is_part` says what each is evidence of
_SMALLER_ERRORS = 4.0  # ratio of rounding errors that shows different arithmetic
_DROWNED = 1e-4  # rounding error of probabilities, relative to them, that allows them no tolerance of their own
_P_CHANCE, _P_UNLIKELY, _P_EXCLUDED = 0.05, 1e-3, 1e-5  # limits of the probability that random channels are so adjacent
_FEW, _SOME = 9, 32  # channels: up to `_FEW` each may have its own meaning; up to `_SOME` a large ratio still decides
_NOTHING = 1e-13  # relative size of a channel that counts as zero: runtimes flush what is left of a closed gate
_ZEROS = (
    0.01  # share of exact zeros above which a channel follows a ReLU and may be small because that is rarely active
)
_MAX_LABEL = 2048.0  # FP16 represents every integer up to here
_MIN_MARK, _MARK_RATIO = 9.9e3, 100.0  # the least size of a mark, and its least ratio to every other value
_REPEATED_MARK_RATIO = 4.0  # the same where all marks are one value that occurs several times
_MARK_SPREAD = 0.01  # marks of one sign differ by at most this much, relative to the largest

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Channels = npt.NDArray[np.intp]


def find(reference: Arrays, drawn: Sequence[Arrays], truth: Arrays) -> tuple[OutputPart, ...]:
    """The parts of every output, at least one each.

    `reference` holds the FP64 answers to all cases, `truth` those to some of them, and `drawn` several FP32 answers to
    the latter.
    """
    return tuple(
        part
        for name, array in reference.items()
        for part in _parts(name, array, [answers[name] for answers in drawn], truth[name])
    )


def _parts(name: str, reference: Array, drawn: Sequence[Array], truth: Array) -> list[OutputPart]:
    if not np.issubdtype(reference.dtype, np.floating):
        return [OutputPart(name, labels=True)]
    exact = np.asarray(reference, np.float64)
    whole = OutputPart(name, marks=_marks(exact))
    amounts = ~whole.marked(exact) & ~np.isnan(exact)
    if _are_labels(exact[amounts]):
        return [replace(whole, labels=True)]
    errors = _errors(whole, drawn, np.asarray(truth, np.float64))
    by_axis = [_Axis.of(exact, amounts, errors, axis).groups() for axis in range(1, exact.ndim)]
    best = max(enumerate(by_axis, 1), key=lambda pair: pair[1].contrast, default=None)
    if best is None or len(best[1].groups) < 2:
        return [whole]
    axis, grouping = best
    size = exact.shape[axis]
    return [
        OutputPart(name, axis, size, tuple(_spans(channels)), whole.marks, labels)
        for channels, labels in grouping.groups
    ]


def _errors(whole: OutputPart, drawn: Sequence[Array], truth: Floats) -> Floats:
    """The root mean square rounding error of each element; NaN where the value is zero or a mark."""
    with np.errstate(invalid="ignore", over="ignore"):
        squares = np.mean([(np.asarray(answers, np.float64) - truth) ** 2 for answers in drawn], axis=0)
    counts = ~whole.marked(truth) & (truth != 0) & np.isfinite(squares)
    errors: Floats = np.where(counts, np.sqrt(squares), np.nan)
    return errors


def _marks(exact: Floats) -> tuple[float, ...]:
    """The values of masks: far larger than all others, and equal except for what was added to them."""
    marks: list[float] = []
    for sign in (-1.0, 1.0):
        values = np.abs(exact[np.isfinite(exact) & (np.sign(exact) == sign)])
        others = np.abs(exact[np.isfinite(exact)])
        while values.size and (largest := float(values.max())) >= _MIN_MARK:
            rest = others[others < (1 - _MARK_SPREAD) * largest]
            repeated = int((values == largest).sum()) == len(others) - len(rest) > 1
            ratio = _REPEATED_MARK_RATIO if repeated else _MARK_RATIO
            if not rest.size or float(rest.max()) * ratio > largest:  # without smaller values it is an amount
                break
            marks.append(sign * largest)
            values, others = values[values < (1 - _MARK_SPREAD) * largest], rest
    return tuple(marks)


def _are_labels(values: Floats) -> bool:
    """Whether all values are integers of which at least two differ."""
    if not values.size or float(np.abs(values).max()) > _MAX_LABEL or not np.array_equal(values, np.rint(values)):
        return False
    return bool((values != values.flat[0]).any())


def _spans(channels: Channels) -> Iterator[tuple[int, int]]:
    for run in np.split(channels, np.flatnonzero(np.diff(channels) > 1) + 1):
        yield int(run[0]), int(run[-1]) + 1


@dataclass(frozen=True)
class _Groups:
    """Groups of channels, each with whether it holds labels, and the log10 ratio of the extreme group sizes."""

    groups: list[tuple[Channels, bool]]
    contrast: float


@dataclass(frozen=True)
class _Axis:
    """Statistics of each channel along an axis: its size and rounding error (root mean squares), and more.

    `zeros` is the share of exact zeros, `shares` says that all values lie in [0, 1], `labels` that all are labels.
    """

    sizes: Floats
    errors: Floats
    zeros: Floats
    shares: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, exact: Floats, amounts: npt.NDArray[np.bool_], errors: Floats, axis: int) -> _Axis:
        """The statistics of an output along `axis`; of values outside `amounts`, which are marks or NaN, none count."""
        rows, counts, moved = (
            np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in (exact, amounts, errors)
        )
        values = np.where(counts, rows, 0.0)
        count = counts.sum(axis=1).clip(min=1)
        sizes = np.sqrt((values**2).sum(axis=1) / count)
        rounding = np.sqrt(np.nansum(moved**2, axis=1) / (~np.isnan(moved)).sum(axis=1).clip(min=1))
        zeros = (counts & (rows == 0)).sum(axis=1) / count
        labels: npt.NDArray[np.bool_] = np.zeros(len(rows), np.bool_)
        for row in np.flatnonzero((values == np.rint(values)).all(axis=1)):
            labels[row] = _are_labels(values[row][counts[row]])
        shares: npt.NDArray[np.bool_] = np.all((values >= 0) & (values <= 1), axis=1)
        return cls(sizes, rounding, zeros, shares, labels)

    def groups(self) -> _Groups:
        """The channels in groups; the contrast is 0 where all are one group."""
        labels, amounts = np.flatnonzero(self.labels), np.flatnonzero(~self.labels)
        if len(labels) > _FEW:
            labels, amounts = labels[:0], np.arange(len(self.labels))
        groups = self._split(amounts) if len(amounts) else []
        levels = sorted(math.log10(float(self.sizes[group].max())) for group in groups if self.sizes[group].any())
        contrast = levels[-1] - levels[0] if len(levels) > 1 else 0.0
        label_groups = [(labels, True)] if len(labels) else []
        return _Groups([(group, False) for group in groups] + label_groups, contrast + len(label_groups))

    def _split(self, channels: Channels) -> list[Channels]:
        """Splits channels recursively, at the largest steps between their sorted sizes first."""
        non_zero = channels[self.sizes[channels] > _NOTHING * self.sizes[channels].max()]
        order = non_zero[np.argsort(self.sizes[non_zero], kind="stable")]
        steps = self.sizes[order][1:] / self.sizes[order][:-1]
        for index in np.argsort(-steps, kind="stable"):
            if steps[index] < _STEP:
                break
            small = np.isin(channels, self._with_zero(channels, non_zero, order[: index + 1]))
            if self._is_part(channels, small, float(steps[index])):
                return [*self._split(channels[small]), *self._split(channels[~small])]
        return [channels]

    def _with_zero(self, channels: Channels, non_zero: Channels, chosen: Channels) -> Channels:
        """The chosen channels, and the channels of zeros whose nearest non-zero channel is among them."""
        ordered = np.sort(non_zero)
        after = np.searchsorted(ordered, channels).clip(max=len(ordered) - 1)
        before = (after - 1).clip(min=0)
        nearer = channels - ordered[before] < ordered[after] - channels
        return channels[np.isin(np.where(nearer & (before < after), ordered[before], ordered[after]), chosen)]

    def _is_part(self, channels: Channels, is_small: npt.NDArray[np.bool_], step: float) -> bool:
        """Whether the small ones among these channels are a separate part, and not small by chance."""
        small, large = channels[is_small], channels[~is_small]
        if self.shares[channels].all() and _rms(self.errors[small]) > _DROWNED * _rms(self.sizes[small]):
            return False
        fewer = is_small if len(small) <= len(large) else ~is_small
        chance = _adjacent_by_chance(fewer)
        smaller_errors = _SMALLER_ERRORS * _rms(self.errors[small]) <= _rms(self.errors[large])
        after_relu = self.zeros[small].max() > _ZEROS
        if step < _APART:
            on_average = _rms(self.sizes[large]) >= _APART * _rms(self.sizes[small])
            return smaller_errors and on_average and chance <= _P_EXCLUDED
        if chance <= (_P_EXCLUDED if after_relu else _P_UNLIKELY):
            return smaller_errors or step >= _FAR
        if not smaller_errors or self.shares[channels].all() or after_relu:
            return False
        return chance <= _P_CHANCE or len(channels) <= _FEW or (len(channels) <= _SOME and step >= _FAR)


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _adjacent_by_chance(chosen: npt.NDArray[np.bool_]) -> float:
    """The probability that as many channels chosen at random form as few runs, or one run at an end."""
    count, runs = int(chosen.sum()), int(chosen[0]) + int((chosen[1:] & ~chosen[:-1]).sum())
    ways = _log_binomial(len(chosen), count)
    by_runs = (
        _log_binomial(count - 1, run - 1) + _log_binomial(len(chosen) - count + 1, run) for run in range(1, runs + 1)
    )
    chance = sum(math.exp(some - ways) for some in by_runs)
    return min(chance, 4 * math.exp(-ways)) if runs == 1 and (chosen[0] or chosen[-1]) else chance


def _log_binomial(n: int, k: int) -> float:
    """The logarithm of the binomial coefficient n over k."""
    if k > n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
