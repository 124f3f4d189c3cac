"""Where a picture lies in the input of a model, and boxes converted between the pixels of both.

A pixel is a square of side 1, so that a picture covers 0 … width and 0 … height, and resizing moves its edges to
edges, as in Pillow and OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from deploytool.data.preprocess import CORNER, CROP, WITHIN, pair
from deploytool.errors import BadInput
from deploytool.spec import ImageSize, Preprocessing

Boxes: TypeAlias = npt.NDArray[np.float64]
Size: TypeAlias = tuple[int, int]  # height and width

UNSEEN = -1  # in a map of classes: a pixel of the picture that is not in the input
_CENTRED = 0.1  # of an odd number of pixels of padding, the larger half is on the right and at the bottom


@dataclass(frozen=True)
class Placement:
    """A picture of `picture` pixels is resized to `resized` and lies at `offset` in an input of size `canvas`.

    All are a height and a width; a crop has offsets below 0.
    """

    picture: Size
    resized: Size
    offset: Size
    canvas: Size

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the input for each pixel of the picture, vertically and horizontally."""
        return self.resized[0] / self.picture[0], self.resized[1] / self.picture[1]

    def to_picture(self, boxes: npt.ArrayLike) -> Boxes:
        """Boxes (n × 4: x1, y1, x2, y2) in pixels of the input as boxes in pixels of the picture, clipped to it."""
        height, width = self.picture
        scale, offset = self._corners()
        moved: Boxes = (np.asarray(boxes, np.float64).reshape(-1, 4) - offset) / scale
        return moved.clip(0, (width, height, width, height))

    def to_input(self, boxes: npt.ArrayLike) -> Boxes:
        """Boxes (n × 4: x1, y1, x2, y2) in pixels of the picture as boxes in pixels of the input, not clipped."""
        scale, offset = self._corners()
        moved: Boxes = np.asarray(boxes, np.float64).reshape(-1, 4) * scale + offset
        return moved

    def map_to_picture(self, classes: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """A map of classes over the input, of any resolution, at each pixel of the picture; `UNSEEN` outside of it.

        Each pixel gets the class at its centre.
        """
        (rows, seen_rows), (columns, seen_columns) = (self._sampled(axis, classes.shape[axis]) for axis in (0, 1))
        mapped = classes.astype(np.int32)[rows[:, None], columns]
        mapped[~seen_rows] = UNSEEN
        mapped[:, ~seen_columns] = UNSEEN
        return mapped

    def _corners(self) -> tuple[Boxes, Boxes]:
        """Scale and offset of the four coordinates of a box."""
        (down, across), (top, left) = self.scale, self.offset
        return np.array((across, down) * 2), np.array((left, top) * 2, np.float64)

    def _sampled(self, axis: int, cells: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """The cell of a map at each pixel of the picture along an axis, and whether the pixel is in the input."""
        centres = (np.arange(self.picture[axis]) + 0.5) * self.scale[axis] + self.offset[axis]
        index = np.floor(centres * (cells / self.canvas[axis])).astype(np.intp)
        return index.clip(0, cells - 1), (centres >= 0) & (centres < self.canvas[axis])


def place(picture: Size, how: Preprocessing) -> Placement:
    """Where the preprocessing puts a picture of this height and width.

    Raises BadInput if the picture is empty or smaller than the crop.
    """
    height, width = picture
    if not height or not width:
        raise BadInput("the picture has no pixels", "give one that has some")
    if how.fit == CROP:
        return _cropped(picture, how)
    box = pair(how.resize)
    factor = min(box[0] / height, box[1] / width)
    resized = max(1, round(height * factor)), max(1, round(width * factor))
    if how.fit == WITHIN:
        return Placement(picture, resized, (0, 0), resized)
    if how.fit == CORNER:
        return Placement(picture, resized, (0, 0), box)
    top, left = (round((side - used) / 2 - _CENTRED) for side, used in zip(box, resized, strict=True))
    return Placement(picture, resized, (top, left), box)


def _cropped(picture: Size, how: Preprocessing) -> Placement:
    height, width = _resized(picture, how.resize)
    high, wide = pair(how.crop) if how.crop else (height, width)
    if high > height or wide > width:
        problem = f"a picture of {height} × {width} is smaller than the {high} × {wide} that are to be cut out of it"
        raise BadInput(problem, "give a larger one, or export again with --resize")
    offset = -round((height - high) / 2), -round((width - wide) / 2)
    return Placement(picture, (height, width), offset, (high, wide))


def _resized(picture: Size, resize: ImageSize) -> Size:
    """Height and width after resizing to a size, to a shorter side, or not at all (0)."""
    if isinstance(resize, tuple):
        return resize
    if not resize:
        return picture
    shorter = min(picture)
    return int(resize * picture[0] / shorter), int(resize * picture[1] / shorter)
