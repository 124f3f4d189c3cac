"""Top-1 accuracy: the share of images whose class has the best score."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.metrics.ranks import ranks

Floats = npt.NDArray[np.float64]


def scores(answers: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Floats:
    """1 for each image whose class has the best score, otherwise 0.

    `answers` are scores (images × classes), `targets` the index of the right class of each image.
    """
    return (ranks(answers, targets) < 1).astype(np.float64)


def value(answers: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
    """The share of images whose class has the best score."""
    return float(scores(answers, targets).mean())
