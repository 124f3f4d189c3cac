"""The parts of an answer that have scales of their own: which values are compared with which, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploytool import fp16_rounding

if TYPE_CHECKING:  # a report is read without numpy, which is imported where there is something to compute
    import numpy as np
    import numpy.typing as npt

_ALIKE = 0.01  # two values of a mark that lie so near, relative to it, mean the same
_ROUND = 0.001  # of 65504: what FP16 makes of numbers beyond its range lies as near to it


@dataclass(frozen=True)
class OutputPart:
    """Channels of one output that are judged together: those of `spans` (half-open) along `axis` of length `size`.

    Without an axis it is the whole output. `marks` are values that stand for something else than an amount, as the
    -1e9 of a mask does; `labels` says that the values are numbers of something, which are right or wrong, never near.
    """

    output: str
    axis: int = 0
    size: int = 0
    spans: tuple[tuple[int, int], ...] = ()
    marks: tuple[float, ...] = ()
    labels: bool = False

    def __str__(self) -> str:
        if not self.axis:
            return self.output
        spans = [str(start) if stop == start + 1 else f"{start}:{stop}" for start, stop in self.spans]
        chosen = spans[0] if len(spans) == 1 else f"[{', '.join(spans)}]"
        return f"{self.output}[{':, ' * self.axis}{chosen}]"

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether an output of that shape has these channels."""
        return not self.axis or (len(shape) > self.axis and shape[self.axis] == self.size)

    def of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The channels of this part, of an array (cases, ...) that it fits."""
        if not self.axis:
            return array
        if len(self.spans) == 1:
            return array[(slice(None),) * self.axis + (slice(*self.spans[0]),)]
        import numpy as np

        channels = np.concatenate([np.arange(*span) for span in self.spans])
        chosen: npt.NDArray[Any] = np.take(array, channels, axis=self.axis)
        return chosen

    def marked(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Where such values are marks: infinite, or one of `marks`."""
        import numpy as np

        found: npt.NDArray[np.bool_] = np.isinf(values)
        for mark in self.marks:
            found |= same_value(values, np.full_like(values, mark))
        return found


def same_value(values: npt.NDArray[np.float64], marks: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Where values mean the same as marks: beyond the range of FP16 its largest number and infinity mean so too."""
    import numpy as np

    same_side = np.sign(values) == np.sign(marks)
    with np.errstate(invalid="ignore"):
        near = np.abs(values - marks) <= _ALIKE * np.abs(marks)
        end = np.isinf(values) | (np.abs(np.abs(values) - fp16_rounding.LARGEST) <= _ROUND * fp16_rounding.LARGEST)
    found: npt.NDArray[np.bool_] = ~np.isinf(marks) & near
    found |= same_side & end & (np.abs(marks) >= fp16_rounding.LARGEST * (1 - _ROUND))
    return found
