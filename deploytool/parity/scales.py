"""The scale on which the errors of each case are judged."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_MIN_SCALE = 0.1  # of the largest case: smaller cases are judged on this scale, or their noise would decide


def of_cases(sizes: Floats) -> Floats:
    """The scale of each case: its largest value, but no less than a tenth of the largest of all cases."""
    largest: Floats = sizes.reshape(len(sizes), -1).max(axis=1, initial=0.0)
    return np.maximum(largest, _MIN_SCALE * largest.max(initial=0.0)) if largest.any() else np.ones(len(sizes))
