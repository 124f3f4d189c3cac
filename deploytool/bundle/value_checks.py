"""Whether values that a manifest states of a model's outputs are known and in range."""

from __future__ import annotations

from deploytool.results.output_parts import OutputPart
from deploytool.spec import Decoding


def is_valid_decoding(decoding: Decoding) -> bool:
    """Whether all values of the decoding are known or in range."""
    return (
        decoding.boxes in ("xyxy", "xywh", "cxcywh")
        and decoding.activation in ("none", "sigmoid", "softmax")
        and decoding.background in ("none", "first", "last")
        and 0 <= decoding.threshold <= 1
        and 0 <= decoding.nms <= 1
        and 0 < decoding.top < 1 << 31
    )


def is_valid_part(part: OutputPart) -> bool:
    """Whether the channels of a part lie within the output."""
    inside = all(0 <= start < stop <= part.size for start, stop in part.spans)
    return inside and 0 <= part.axis < 64 and bool(part.spans) == bool(part.axis)
