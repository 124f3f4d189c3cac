"""What a person marked in an image: the targets that answers are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Boxes:
    """The objects marked in one image.

    `boxes` is n × 4, the corners x1, y1, x2, y2 in pixels; `classes` has n indices. `crowd` has n flags: a box around a
    group, which need not be found, and in which a detection is no error.
    """

    boxes: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
