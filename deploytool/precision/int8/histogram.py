"""Histograms of tensors that are added to in one pass and have a fixed size, whatever the values are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from deploytool.backends.session import Array

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

# A bin is a range of FP32 bit patterns: the leading bits of the mantissa, in each of the highest octaves. Edges so
# defined do not depend on the data, so that the result does not depend on the order in which values are added.
_MANTISSA_BITS, _DROPPED_BITS = 9, 14
_OCTAVES = 24  # 2^-24 of the largest value is far below a step of INT8, also where the range is cut to a thousandth
_PER_OCTAVE = 1 << _MANTISSA_BITS
BINS = _OCTAVES * _PER_OCTAVE + 1  # of one sign: the first holds zero and what is smaller than all octaves
_MAGNITUDE, _SIGN_BIT, _FP32_MANTISSA_BITS = np.uint32(0x7FFFFFFF), np.uint32(31), 23


@dataclass(frozen=True)
class Spans:
    """The bins that have values, in the order of the values: their edges `lower` and `upper`, and how many each has."""

    lower: Floats
    upper: Floats
    counts: Counts

    def magnitudes(self) -> Spans:
        """The bins of the absolute values, in their order."""
        negative = self.lower < 0
        lower = np.where(negative, -self.upper, self.lower)
        upper = np.where(negative, -self.lower, self.upper)
        edges, place = np.unique(lower, return_inverse=True)
        joined, counts = np.zeros_like(edges), np.zeros(len(edges), np.int64)
        np.maximum.at(joined, place, upper)
        np.add.at(counts, place, self.counts)
        return Spans(edges, joined, counts)


@dataclass
class Histogram:
    """The distribution of the values of a tensor: their extremes, and counts in bins of 0.2 % of the value or less.

    `counts` has a row for positive and one for negative values. `top` is the FP32 exponent of the highest octave.
    """

    low: float = math.inf
    high: float = -math.inf
    top: int = _OCTAVES
    counts: Counts = field(default_factory=lambda: np.zeros((2, BINS), np.int64))

    @property
    def total(self) -> int:
        """How many values were added."""
        return int(self.counts.sum())

    def add(self, values: Array) -> bool:
        """Adds values, as FP32; if one is NaN or infinite, adds none of them and returns false."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        if not flat.size:
            return True
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            return False
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = np.float32(max(abs(low), abs(high))).view(np.uint32)
        self._raise_top(int(largest) >> _FP32_MANTISSA_BITS)
        bits = flat.view(np.uint32)
        index = ((bits & _MAGNITUDE) >> np.uint32(_DROPPED_BITS)).view(np.int32)
        index -= self._first_pattern() - 1
        np.maximum(index, 0, out=index)
        if low < 0:
            index += BINS * (bits >> _SIGN_BIT).view(np.int32)
        self.counts += np.bincount(index, minlength=2 * BINS).reshape(2, BINS)
        return True

    def spans(self) -> Spans:
        """The bins that have values, cut to the extremes; the bin around zero is taken as zero itself."""
        patterns = (self._first_pattern() + np.arange(BINS, dtype=np.int64)) << _DROPPED_BITS
        edges = patterns.astype(np.uint32).view(np.float32).astype(np.float64)
        lower, upper = np.append(0.0, edges[:-1]), np.append(0.0, edges[1:])
        kept, minus = (np.flatnonzero(row) for row in self.counts)
        minus = minus[::-1]
        joined = Spans(
            np.append(-upper[minus], lower[kept]),
            np.append(-lower[minus], upper[kept]),
            np.append(self.counts[1, minus], self.counts[0, kept]),
        )
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        return Spans(joined.lower.clip(low, high), joined.upper.clip(low, high), joined.counts)

    def _first_pattern(self) -> int:
        """The leading bits of the smallest value of the lowest octave."""
        return (self.top - _OCTAVES + 1) << _MANTISSA_BITS

    def _raise_top(self, top: int) -> None:
        """Makes room for an octave: as many low ones go into the first bin."""
        gone = (top - self.top) * _PER_OCTAVE
        if gone <= 0:
            return
        self.top = top
        raised = np.zeros_like(self.counts)
        first = min(gone, BINS - 1) + 1
        raised[:, 0] = self.counts[:, :first].sum(1)
        raised[:, 1 : 1 + BINS - first] = self.counts[:, first:]
        self.counts = raised
