"""The range of the values of a tensor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ValueRange:
    """The values that a tensor takes on the calibration data, from `low` to `high`."""

    low: float
    high: float
