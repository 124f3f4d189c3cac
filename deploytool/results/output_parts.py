"""Parts of an output that have a scale of their own: which values are compared together, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deploytool.host import fp16_rounding

if TYPE_CHECKING:  # reading a report needs no numpy; functions that compute import it
    import numpy as np
    import numpy.typing as npt

_MARK_TOLERANCE = 0.01  # relative difference up to which a value equals a mark
_SATURATION_TOLERANCE = 0.001  # relative to the FP16 maximum: values this near to it count as saturated


@dataclass(frozen=True)
class OutputPart:
    """Channels of one output that are judged together: those of `spans` (half-open) along `axis` of length `size`.

    With axis 0 the part is the whole output. `marks` are values with a special meaning, such as -1e9 in an attention
    mask; `labels` is true if the values are class indices or similar, which are compared for equality.
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
        channels = spans[0] if len(spans) == 1 else f"[{', '.join(spans)}]"
        return f"{self.output}[{':, ' * self.axis}{channels}]"

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether an output of that shape has these channels."""
        return not self.axis or (len(shape) > self.axis and shape[self.axis] == self.size)

    def of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The channels of this part in an array (cases, ...) whose shape fits."""
        if not self.axis:
            return array
        if len(self.spans) == 1:
            return array[(slice(None),) * self.axis + (slice(*self.spans[0]),)]
        import numpy as np

        channels = np.concatenate([np.arange(*span) for span in self.spans])
        selection: npt.NDArray[Any] = np.take(array, channels, axis=self.axis)
        return selection

    def marked(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Boolean array: which values are infinite or equal one of `marks`."""
        import numpy as np

        is_mark: npt.NDArray[np.bool_] = np.isinf(values)
        for mark in self.marks:
            is_mark |= same_value(values, np.full_like(values, mark))
        return is_mark


def same_value(values: npt.NDArray[np.float64], marks: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Boolean array: which values equal their mark; beyond the range of FP16, saturated and infinite values do too."""
    import numpy as np

    same_sign, fp16_max = np.sign(values) == np.sign(marks), fp16_rounding.LARGEST
    with np.errstate(invalid="ignore"):
        near = np.abs(values - marks) <= _MARK_TOLERANCE * np.abs(marks)
        saturated = np.isinf(values) | (np.abs(np.abs(values) - fp16_max) <= _SATURATION_TOLERANCE * fp16_max)
    same: npt.NDArray[np.bool_] = ~np.isinf(marks) & near
    same |= same_sign & saturated & (np.abs(marks) >= fp16_max * (1 - _SATURATION_TOLERANCE))
    return same
