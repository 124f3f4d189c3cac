"""How far answers are from others, measured by code that shares nothing with deploytool.

The unit is the tolerance of each output: a distance of 1 is just tolerated. Values of a dense output are relative to
the largest of their picture. Sets of boxes are compared in any order: their distance is the least number of tolerances
with which every box is that of another of its class, or so near to the lowest score that it may drop out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

LEAST_SCALE = 0.1  # of the largest picture: the errors of pictures with smaller values are relative to this


def distance(got: Arrays, expected: Arrays, tolerances: Mapping[str, float]) -> float:
    """The largest distance of any picture, in tolerances; infinite where a value is not finite."""
    if any(not np.isfinite(array).all() for array in got.values()):
        return np.inf
    if "labels" in expected:
        return max(_of_sets(got, expected, tolerances))
    return max(_dense(got[name], array) / tolerances[name] for name, array in expected.items())


def order_changes(got: Arrays, expected: Arrays) -> bool:
    """Whether a place of a detector's answers has another class, or a box at least 1 pixel away."""
    moved = np.abs(got["boxes"].astype(np.float64) - expected["boxes"]).max(-1) > 1
    return bool((moved | (got["labels"] != expected["labels"])).any())


def _scales(array: Array) -> Array:
    sizes = np.abs(array.astype(np.float64)).reshape(len(array), -1).max(1)
    return np.maximum(sizes, LEAST_SCALE * sizes.max())  # type: ignore[no-any-return]


def _dense(got: Array, expected: Array) -> float:
    errors = np.abs(got.astype(np.float64) - expected).reshape(len(expected), -1).max(1)
    return float((errors / _scales(expected)).max())


def _of_sets(got: Arrays, expected: Arrays, tolerances: Mapping[str, float]) -> list[float]:
    units = {name: _scales(expected[name]) * tolerances[name] for name in ("boxes", "scores")}
    distances = []
    for number in range(len(expected["scores"])):
        here, there = ({name: array[number] for name, array in arrays.items()} for arrays in (got, expected))
        distances.append(_of_picture(here, there, {name: float(unit[number]) for name, unit in units.items()}))
    return distances


def _of_picture(got: Arrays, expected: Arrays, units: Mapping[str, float]) -> float:
    """The least distance at which the boxes of one picture can be matched one to one."""
    boxes, scores = (
        np.abs(got[name].astype(np.float64)[:, None] - expected[name][None]) / units[name] for name in units
    )
    pairs = np.maximum(boxes.max(-1), scores)
    pairs[got["labels"][:, None] != expected["labels"][None]] = np.inf
    cut = min(float(got["scores"].min()), float(expected["scores"].min()))
    # a box that drops out, and one that comes in for it, have both crossed the lowest score: each moves half of the way
    out, into = ((arrays["scores"].astype(np.float64) - cut) / units["scores"] / 2 for arrays in (got, expected))
    count = len(pairs)
    costs = np.zeros((2 * count, 2 * count))
    costs[:count, :count] = pairs
    costs[:count, count:] = out[:, None]
    costs[count:, :count] = into[None]
    return _bottleneck(costs)


def _bottleneck(costs: Array) -> float:
    """The smallest possible largest cost of a perfect matching."""
    values = np.unique(costs[np.isfinite(costs)])
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        matched = maximum_bipartite_matching(csr_matrix(costs <= values[middle]), perm_type="column")
        low, high = (low, middle) if (matched >= 0).all() else (middle + 1, high)
    return float(values[low])
