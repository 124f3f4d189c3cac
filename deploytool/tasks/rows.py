"""Which values of a detector's outputs are the boxes, scores and classes of its rows; plain data, without numpy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deploytool.spec import Decoding

if TYPE_CHECKING:  # reading a report needs no numpy
    import numpy.typing as npt


@dataclass(frozen=True)
class RowValues:
    """Values of every row: `channels` (start, stop) of an output (cases, rows, channels), or all of (cases, rows)."""

    output: str
    channels: tuple[int, int] | None = None

    def of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The values (cases, rows, channels) in an array of the output."""
        return array[..., None] if self.channels is None else array[..., slice(*self.channels)]


@dataclass(frozen=True)
class DetectionRows:
    """The rows of detections that a model selected itself, by top-k or NMS, so that rounding may change their order.

    `outputs` are all outputs (cases, rows, ...) whose rows belong to these detections, such as masks. `classes` is None
    where the model has no classes. `swapped` is the share of rows that a suppression may keep instead of others of
    nearly equal score that overlap them.
    """

    boxes: RowValues
    scores: RowValues
    classes: RowValues | None
    outputs: tuple[str, ...]
    decoding: Decoding
    swapped: float = field(default=0.0, metadata={"optional": True})
