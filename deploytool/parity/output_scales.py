"""Finds the parts of an answer that have scales of their own, so that large numbers hide no errors of small ones.

Boxes in pixels beside scores from 0 to 1 are two parts of one output, whoever joined them. A channel that is quiet by
chance is none: its rounding errors are as large as those of its neighbours, for they come from the same arithmetic,
while those of another part are smaller as its values are. Where that is not enough, parts are known by lying together.
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

_STEP, _APART, _FAR = 3.0, 10.0, 30.0  # times as large: what each is evidence of stands in `_apart`
_CALMER = 4.0  # times smaller rounding errors: another arithmetic
_CHANCE, _SURELY, _NO_CHANCE = 0.05, 1e-3, 1e-5  # that channels thrown at random lie together so well
_FEW, _SOME = 9, 32  # channels: of so few each has a meaning of its own; so many are still told apart by much
_DEAD = 0.01  # of the values are exactly zero: behind a ReLU, and quiet because it hardly ever opens
_COUNTED = 2048.0  # up to here FP16 has every whole number
_MARK, _BEYOND = 9.9e3, 100.0  # a mark is no smaller, and so many times as large as all that is no mark
_BEYOND_EXACTLY = 4.0  # the same where all marks are one number, several times
_SAME = 0.01  # marks lie as near to each other, relative to the largest

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Channels = npt.NDArray[np.intp]


def find(reference: Arrays, drawn: Sequence[Arrays], truth: Arrays) -> tuple[OutputPart, ...]:
    """The parts of every output, one at least.

    `reference` are the FP64 answers to all cases, `truth` those to some, and `drawn` several FP32 answers to these.
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
    left = ~whole.marked(exact) & ~np.isnan(exact)
    if _whole(exact[left]):
        return [replace(whole, labels=True)]
    errors = _errors(whole, drawn, np.asarray(truth, np.float64))
    split = [_Axis.of(exact, left, errors, axis).groups() for axis in range(1, exact.ndim)]
    found = max(enumerate(split, 1), key=lambda pair: pair[1].contrast, default=None)
    if found is None or len(found[1].groups) < 2:
        return [whole]
    axis, groups = found
    size = exact.shape[axis]
    return [OutputPart(name, axis, size, tuple(_spans(each)), whole.marks, labels) for each, labels in groups.groups]


def _errors(whole: OutputPart, drawn: Sequence[Array], truth: Floats) -> Floats:
    """The root mean square rounding error of each element, not a number where it is zero or a mark."""
    with np.errstate(invalid="ignore", over="ignore"):
        squares = np.mean([(np.asarray(answers, np.float64) - truth) ** 2 for answers in drawn], axis=0)
    counts = ~whole.marked(truth) & (truth != 0) & np.isfinite(squares)
    found: Floats = np.where(counts, np.sqrt(squares), np.nan)
    return found


def _marks(exact: Floats) -> tuple[float, ...]:
    """The values of masks: far beyond all others, and all the same but for what was added to them."""
    found: list[float] = []
    for sign in (-1.0, 1.0):
        values = np.abs(exact[np.isfinite(exact) & (np.sign(exact) == sign)])
        others = np.abs(exact[np.isfinite(exact)])
        while values.size and (largest := float(values.max())) >= _MARK:
            rest = others[others < (1 - _SAME) * largest]
            exactly = int((values == largest).sum()) == len(others) - len(rest) > 1
            beyond = _BEYOND_EXACTLY if exactly else _BEYOND
            if not rest.size or float(rest.max()) * beyond > largest:  # nothing else: an amount like any other
                break
            found.append(sign * largest)
            values, others = values[values < (1 - _SAME) * largest], rest
    return tuple(found)


def _whole(values: Floats) -> bool:
    """Whether values are numbers of something: whole, and more than one of them."""
    if not values.size or float(np.abs(values).max()) > _COUNTED or not np.array_equal(values, np.rint(values)):
        return False
    return bool((values != values.flat[0]).any())


def _spans(channels: Channels) -> Iterator[tuple[int, int]]:
    for run in np.split(channels, np.flatnonzero(np.diff(channels) > 1) + 1):
        yield int(run[0]), int(run[-1]) + 1


@dataclass(frozen=True)
class _Groups:
    """Channels that belong together, whether they are labels, and by how much the groups differ in size (log10)."""

    groups: list[tuple[Channels, bool]]
    contrast: float


@dataclass(frozen=True)
class _Axis:
    """What is known of each channel along an axis: its size and rounding error (root mean squares), and more.

    `zeros` is the share of its values that are exactly zero, `shares` says that all lie from 0 to 1, `whole` that all
    are whole numbers.
    """

    sizes: Floats
    errors: Floats
    zeros: Floats
    shares: npt.NDArray[np.bool_]
    whole: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, exact: Floats, left: npt.NDArray[np.bool_], errors: Floats, axis: int) -> _Axis:
        rows, kept, moved = (np.moveaxis(each, axis, 0).reshape(each.shape[axis], -1) for each in (exact, left, errors))
        values = np.where(kept, rows, 0.0)
        count = kept.sum(axis=1).clip(min=1)
        sizes = np.sqrt((values**2).sum(axis=1) / count)
        off = np.sqrt(np.nansum(moved**2, axis=1) / (~np.isnan(moved)).sum(axis=1).clip(min=1))
        zeros = (kept & (rows == 0)).sum(axis=1) / count
        whole: npt.NDArray[np.bool_] = np.zeros(len(rows), np.bool_)
        for row in np.flatnonzero((values == np.rint(values)).all(axis=1)):
            whole[row] = _whole(values[row][kept[row]])
        shares: npt.NDArray[np.bool_] = np.all((values >= 0) & (values <= 1), axis=1)
        return cls(sizes, off, zeros, shares, whole)

    def groups(self) -> _Groups:
        """The channels in groups; the contrast is 0 where they all belong together."""
        labels, amounts = np.flatnonzero(self.whole), np.flatnonzero(~self.whole)
        if len(labels) > _FEW:
            labels, amounts = labels[:0], np.arange(len(self.whole))
        found = self._split(amounts) if len(amounts) else []
        levels = sorted(math.log10(float(self.sizes[each].max())) for each in found if self.sizes[each].any())
        contrast = levels[-1] - levels[0] if len(levels) > 1 else 0.0
        marked = [(labels, True)] if len(labels) else []
        return _Groups([(each, False) for each in found] + marked, contrast + len(marked))

    def _split(self, channels: Channels) -> list[Channels]:
        live = channels[self.sizes[channels] > 0]
        order = live[np.argsort(self.sizes[live], kind="stable")]
        steps = self.sizes[order][1:] / self.sizes[order][:-1]
        for place in np.argsort(-steps, kind="stable"):
            if steps[place] < _STEP:
                break
            quiet = np.isin(channels, self._near(channels, live, order[: place + 1]))
            if self._apart(channels, quiet, float(steps[place])):
                return [*self._split(channels[quiet]), *self._split(channels[~quiet])]
        return [channels]

    def _near(self, channels: Channels, live: Channels, some: Channels) -> Channels:
        """Some of the live channels, and those without any value whose nearest live channel is among them."""
        ordered = np.sort(live)
        after = np.searchsorted(ordered, channels).clip(max=len(ordered) - 1)
        before = (after - 1).clip(min=0)
        nearer = channels - ordered[before] < ordered[after] - channels
        return channels[np.isin(np.where(nearer & (before < after), ordered[before], ordered[after]), some)]

    def _apart(self, channels: Channels, quiet: npt.NDArray[np.bool_], step: float) -> bool:
        """Whether the quiet ones among these channels are another part, and not quiet by chance."""
        silent, loud = channels[quiet], channels[~quiet]
        fewer = quiet if len(silent) <= len(loud) else ~quiet
        chance = _by_chance(fewer)
        calmer = _CALMER * _norm(self.errors[silent]) <= _norm(self.errors[loud])
        if step < _APART:
            further = _norm(self.sizes[loud]) >= _APART * _norm(self.sizes[silent])
            return calmer and further and chance <= _NO_CHANCE
        if chance <= (_NO_CHANCE if self.zeros[silent].max() > _DEAD else _SURELY):
            return calmer or step >= _FAR
        if not calmer or self.shares[channels].all() or self.zeros[silent].max() > _DEAD:
            return False
        return chance <= _CHANCE or len(channels) <= _FEW or (len(channels) <= _SOME and step >= _FAR)


def _norm(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _by_chance(chosen: npt.NDArray[np.bool_]) -> float:
    """How likely it is that as many, chosen at random, lie in as few runs, or in one at an end."""
    some, runs = int(chosen.sum()), int(chosen[0]) + int((chosen[1:] & ~chosen[:-1]).sum())
    ways = _choose(len(chosen), some)
    each = (_choose(some - 1, run - 1) + _choose(len(chosen) - some + 1, run) for run in range(1, runs + 1))
    chance = sum(math.exp(one - ways) for one in each)
    return min(chance, 4 * math.exp(-ways)) if runs == 1 and (chosen[0] or chosen[-1]) else chance


def _choose(many: int, few: int) -> float:
    """The logarithm of how many ways there are to choose."""
    if few > many:
        return -math.inf
    return math.lgamma(many + 1) - math.lgamma(few + 1) - math.lgamma(many - few + 1)
