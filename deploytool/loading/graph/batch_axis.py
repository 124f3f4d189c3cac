"""Finds the axis of the batch in the tensors of a given graph, from the names and sizes of its dimensions."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TypeAlias

Dimensions: TypeAlias = tuple[int | str, ...]  # of a tensor in a file; "" is a dynamic dimension without a name

_BATCH_NAME = re.compile(r"(n|b|bs|bsz|.*batch.*)", re.IGNORECASE)
_OTHER_NAME = re.compile(r".*(seq|len|time|frame|token|width|height|step|past|sample|channel).*|[hwtls]", re.IGNORECASE)


def of_inputs(
    inputs: Sequence[Dimensions], outputs: Sequence[Dimensions | None]
) -> tuple[list[int | None], int | None]:
    """The axis of the batch in each input, None where there is none, and the batch size if it is fixed.

    A graph in which an input has no batch takes one case at a time: its batch size is 1.
    """
    batch = names(inputs)
    axes = [_axis(shape, batch) for shape in inputs]
    if None not in axes:
        return axes, None
    firsts = {shape[0] if shape else 0 for shape in inputs}
    first = firsts.pop() if len(firsts) == 1 else 0
    if isinstance(first, int) and first and all(shape is None or shape[:1] == (first,) for shape in outputs):
        return [0 for _ in inputs], first
    return [_single_axis(shape) if axis is None else axis for shape, axis in zip(inputs, axes, strict=True)], 1


def names(inputs: Sequence[Dimensions]) -> frozenset[str]:
    """The names of the dimension that is the batch.

    A name that says so decides. Without one, the first dimension is the batch if it is dynamic in every input and no
    name says that it is something else; "" stands for dimensions without a name.
    """
    dynamic = {size for shape in inputs for size in shape if isinstance(size, str)}
    if by_name := frozenset(name for name in dynamic if _BATCH_NAME.fullmatch(name)):
        return by_name
    firsts = [shape[0] if shape else 0 for shape in inputs]
    words = frozenset(size for size in firsts if isinstance(size, str))
    is_batch = all(isinstance(size, str) for size in firsts) and not any(map(_OTHER_NAME.fullmatch, words))
    return words if is_batch else frozenset()


def of_output(shape: Dimensions | None, batch: Collection[str]) -> int:
    """The axis of the batch in an output: the first one, unless its declared shape has the batch elsewhere."""
    axes = [axis for axis, size in enumerate(shape or ()) if isinstance(size, str) and size and size in batch]
    return axes[0] if axes else 0


def _axis(shape: Dimensions, batch: Collection[str]) -> int | None:
    """The axis of the batch; a first dimension without a name is taken for it where another input has a batch."""
    axes = [axis for axis, size in enumerate(shape) if isinstance(size, str) and size and size in batch]
    if axes:
        return axes[0]
    return 0 if batch and shape[:1] == ("",) else None


def _single_axis(shape: Dimensions) -> int | None:
    """The axis that can be the batch in a graph that takes one case at a time."""
    return 0 if shape[:1] in ((1,), ("",)) else None
