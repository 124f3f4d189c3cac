"""Top-5 accuracy: the share of images whose class is among the five best."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.errors import BadInput
from deploytool.metrics.ranks import ranks

Floats = npt.NDArray[np.float64]

_PLACES = 5


def scores(answers: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Floats:
    """1 for each image whose class is among the five best, otherwise 0.

    `answers` are scores (images × classes), `targets` the index of the right class of each image. Raises `BadInput` for
    at most five classes, where no answer could be wrong.
    """
    if (classes := np.shape(answers)[1]) <= _PLACES:
        raise BadInput(f"of {classes} classes each is among the five best", "take --metric top1")
    return (ranks(answers, targets) < _PLACES).astype(np.float64)


def value(answers: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
    """The share of images whose class is among the five best."""
    return float(scores(answers, targets).mean())
