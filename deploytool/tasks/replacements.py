"""Decides which differences between two selections of detections are replacements that rounding explains.

A row that only one of the selections has is explained

- by the cut: its score is within the tolerance of the last score where both selections are full, and of the threshold
  where one has room;
- by the suppression: it overlaps a row of its class by the limit of the suppression, within the tolerance; or it
  overlaps by more a row that is explained itself and that only the other selection has, whose score is not lower;
- by these: each such row moves another one at the cut up or down.

Rows are replaced in pairs, as both selections have the same number of places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploytool.spec import Decoding
from deploytool.tasks import boxes as boxes_of

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_BOTH_SIDES = 2.0  # both of two compared scores may move towards each other
_CORNERS = 4.0  # by how many tolerances of a coordinate, over the shorter side, the overlap of two boxes moves
_MOST_OVERLAP = 0.02  # the largest tolerance of an overlap


@dataclass(frozen=True)
class Reach:
    """How far boxes (cases, N, 4) and scores (cases, N) of correct answers may deviate, in the outputs' units."""

    boxes: Floats
    scores: Floats

    def at(self, case: int) -> Reach:
        """That of one case, without the axis of cases."""
        return Reach(self.boxes[case], self.scores[case])


@dataclass(frozen=True)
class CaseRows:
    """The rows of one case as the model gives them: boxes (N, 4), scores (N) and classes (N)."""

    boxes: Floats
    scores: Floats
    classes: Floats

    @property
    def real(self) -> Mask:
        """Which rows are no padding: padding has a box of four equal numbers, or a negative class."""
        real: Mask = (self.boxes.max(axis=1) > self.boxes.min(axis=1)) & (self.classes >= 0)
        return real

    def at(self, chosen: npt.NDArray[np.intp]) -> CaseRows:
        """The rows with these indices."""
        return CaseRows(self.boxes[chosen], self.scores[chosen], self.classes[chosen])


@dataclass(frozen=True)
class Replacements:
    """An order of the rows, (N) indices, in which those to be replaced stand at the places `replaced` (N)."""

    order: npt.NDArray[np.intp]
    replaced: Mask


def find(here: CaseRows, there: CaseRows, reach: Reach, decoding: Decoding, *, swaps: bool) -> Replacements:
    """The replacements among the rows `here`, which are matched with those of `there` place by place.

    With `swaps`, two more kinds of rows are replacements: one below the threshold, which nobody takes for an object,
    and one that overlaps another of the other side by more than the limit of the suppression, if their scores are equal
    within the tolerance: either of them suppresses the other. A row whose box alone is wrong looks the same, so that
    the number of swaps has to be limited by what rounding does to the model.
    """
    order, replaced = np.arange(len(here.scores)), np.zeros(len(here.scores), np.bool_)
    off = np.flatnonzero(deviates(here, there, reach))
    if not len(off):
        return Replacements(order, replaced)
    case = _Case(here, there, off, reach, decoding)
    by_here, by_there = case.explained(swaps=swaps)
    sources, places = (off[np.argsort(~flags, kind="stable")] for flags in (by_here, by_there))
    order[places] = sources
    replaced[places[: min(int(by_here.sum()), int(by_there.sum()))]] = True
    return Replacements(order, replaced)


def deviates(here: CaseRows, there: CaseRows, reach: Reach) -> Mask:
    """Which rows (N) differ in their class, or by more than `reach` in their box or score."""
    with np.errstate(invalid="ignore"):
        near = (np.abs(here.boxes - there.boxes) <= reach.boxes).all(axis=1)
        near &= np.abs(here.scores - there.scores) <= reach.scores
    off: Mask = ~near | (here.classes != there.classes)
    return off


def far(here: CaseRows, there: CaseRows, reach: Reach) -> Mask:
    """Which rows (N) differ by more than `reach` in their box or score, whatever their class."""
    return deviates(CaseRows(here.boxes, here.scores, there.classes), there, reach)


class _Case:
    """The rows of one case that differ, at the places `off`, and what explains them on each side."""

    def __init__(
        self, here: CaseRows, there: CaseRows, off: npt.NDArray[np.intp], reach: Reach, decoding: Decoding
    ) -> None:
        self._decoding, self._off = decoding, off
        self._sides = (here, there)
        self._own = (here.at(off), there.at(off))
        self._score_reach = _BOTH_SIDES * float(reach.scores.max())
        self._box_reach = reach.boxes.max(axis=1)[off]

    def explained(self, *, swaps: bool) -> tuple[Mask, Mask]:
        """Which of the differing rows are explained, here and there."""
        at_cut = (self._at_cut(0, swaps=swaps), self._at_cut(1, swaps=swaps))
        if self._decoding.nms <= 0:
            return at_cut
        tied = self._hidden() & (np.abs(self._lead()) <= self._score_reach)
        alike = tied.any(axis=1), tied.any(axis=0)
        seeds = [at_cut[side] | self._at_limit(side) | (alike[side] & swaps) for side in (0, 1)]
        known = self._spread((seeds[0], seeds[1]))
        surplus = [int((known[side] & ~at_cut[side]).sum()) for side in (0, 1)]
        here, there = ((known[side] | self._moved(side, surplus[1 - side])) & (~alike[side] | swaps) for side in (0, 1))
        return here, there

    def _at_cut(self, side: int, *, swaps: bool) -> Mask:
        """Which rows have a score within the tolerance of a cut, or with `swaps` below the threshold; padding has."""
        own, full = self._own[side], all(rows.real.all() for rows in self._sides)
        threshold = _threshold(self._decoding)
        cut = float(self._sides[1].scores.min()) if full else threshold
        at_cut: Mask = ~own.real | (np.abs(own.scores - cut) <= self._score_reach)
        return at_cut | ((own.scores <= threshold + self._score_reach) & swaps)

    def _at_limit(self, side: int) -> Mask:
        """Which rows overlap a row of their class that is not worse by the limit of the suppression."""
        own, at_limit = self._own[side], np.zeros(len(self._off), np.bool_)
        for rows in self._sides:
            overlap = self._overlap(own, rows)
            near = np.abs(overlap - self._decoding.nms) <= self._overlap_reach(own)[:, None]
            no_worse = rows.scores[None] >= own.scores[:, None] - self._score_reach
            at_limit |= (near & no_worse & rows.real[None]).any(axis=1)
        return at_limit

    def _spread(self, known: tuple[Mask, Mask]) -> tuple[Mask, Mask]:
        """The explained rows, with those that an explained row of the other side suppressed or would suppress."""
        here, there = known
        hidden, lead = self._hidden(), self._lead()
        for _ in range(2 * len(self._off)):  # each round adds one at least, or ends
            before = int(here.sum()) + int(there.sum())
            here = here | (hidden & (lead >= -self._score_reach) & there[None]).any(axis=1)
            there = there | (hidden & (lead <= self._score_reach) & here[:, None]).any(axis=0)
            if int(here.sum()) + int(there.sum()) == before:
                break
        return here, there

    def _hidden(self) -> Mask:
        """Which rows here and there (n, n) cannot both be selected, since they overlap too much."""
        reach = self._overlap_reach(self._own[0])[:, None]
        hidden: Mask = self._overlap(self._own[0], self._own[1]) > self._decoding.nms - reach
        return hidden

    def _lead(self) -> Floats:
        """By how much the scores there exceed those here: (n, n)."""
        return self._own[1].scores[None] - self._own[0].scores[:, None]

    def _moved(self, side: int, count: int) -> Mask:
        """The `count` rows of the side with the lowest scores: that many the other side lost to its suppression."""
        moved, full = np.zeros(len(self._off), np.bool_), self._sides[side].real.all()
        lowest = np.argsort(self._sides[side].scores, kind="stable")[:count] if full else np.zeros(0, np.intp)
        moved[np.isin(self._off, lowest)] = True
        return moved

    def _overlap(self, first: CaseRows, second: CaseRows) -> Floats:
        """The overlap of every row of `first` with every one of `second`; 0 for different classes."""
        form = self._decoding.boxes
        with np.errstate(invalid="ignore", over="ignore"):
            overlap = boxes_of.iou(boxes_of.corners(first.boxes, form), boxes_of.corners(second.boxes, form))
        return np.where(first.classes[:, None] == second.classes[None], overlap, 0.0)

    def _overlap_reach(self, own: CaseRows) -> Floats:
        """The tolerance of the overlap of each row."""
        corners = boxes_of.corners(own.boxes, self._decoding.boxes)
        shorter = (corners[:, 2:] - corners[:, :2]).min(axis=1).clip(min=0.0)
        reach = np.divide(_CORNERS * self._box_reach, shorter, out=np.ones(len(shorter)), where=shorter > 0)
        tolerance: Floats = np.minimum(reach, _MOST_OVERLAP)
        return tolerance


def _threshold(decoding: Decoding) -> float:
    """The threshold on the scale of the model's scores."""
    share = decoding.threshold
    if decoding.activation != "sigmoid":
        return share
    return math.log(share / (1 - share)) if 0 < share < 1 else math.copysign(math.inf, share - 0.5)
