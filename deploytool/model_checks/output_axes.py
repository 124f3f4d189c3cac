"""Finds the batch axis of every output of a model, from its results for a batch of two and for its first case alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch

Outputs = Mapping[str, torch.Tensor]


class BatchAxis(Enum):
    """Where the cases of a batch are in an output."""

    FIRST = "first"
    ELSEWHERE = "elsewhere"
    CONSTANT = "constant"  # the same tensor for every batch
    SHARED = "shared"  # one tensor for the whole batch, whose values depend on it
    SEVERAL = "several"  # more than one axis has the length of the batch, or a length that is no multiple of it


@dataclass(frozen=True)
class OutputAxis:
    """The kind of an output, and the axis of the batch where there is one."""

    kind: BatchAxis
    axis: int = 0

    @property
    def usable(self) -> bool:
        """Whether the output has one answer for each case."""
        return self.kind in (BatchAxis.FIRST, BatchAxis.ELSEWHERE)


def find(two: Outputs, one: Outputs) -> dict[str, OutputAxis]:
    """The axis of every output: `two` are the results for two cases, `one` those for the first of them alone.

    An output that `one` lacks counts as one with the batch first: the run that needs it says what is wrong.
    """
    return {
        name: _axis(tensor, one[name]) if name in one else OutputAxis(BatchAxis.FIRST) for name, tensor in two.items()
    }


def _axis(two: torch.Tensor, one: torch.Tensor) -> OutputAxis:
    if two.dim() != one.dim():
        return OutputAxis(BatchAxis.FIRST)  # refused where the dimensions are compared
    changed = [axis for axis in range(two.dim()) if two.shape[axis] != one.shape[axis]]
    if not changed:
        return OutputAxis(BatchAxis.CONSTANT if _equal(two, one) else BatchAxis.SHARED)
    whole = [axis for axis in changed if (two.shape[axis], one.shape[axis]) == (2, 1)]
    if whole[:1] == [0] and len(changed) == 1:
        return OutputAxis(BatchAxis.FIRST)
    if len(whole) == len(changed) == 1:
        return OutputAxis(BatchAxis.ELSEWHERE, whole[0])
    return OutputAxis(BatchAxis.FIRST if 0 in changed and len(whole) < len(changed) else BatchAxis.SEVERAL)


def _equal(two: torch.Tensor, one: torch.Tensor) -> bool:
    return bool(((two == one) | (two != two) & (one != one)).all())  # NaN equals NaN


def remarks(model: str, axes: Mapping[str, OutputAxis]) -> list[str]:
    """What is done with each output that has not the batch first."""
    texts = {
        BatchAxis.ELSEWHERE: "the batch is axis {axis} of {name}, and the first axis in the exported graphs",
        BatchAxis.CONSTANT: "{name} is left out: it is the same for every input",
        BatchAxis.SHARED: "{name} is left out: it is one result for the whole batch, not one for each case",
        BatchAxis.SEVERAL: "{name} is left out: more than one of its axes depends on the number of cases",
    }
    found = [(name, axis) for name, axis in axes.items() if axis.kind in texts]
    return [f"{model}: {texts[axis.kind].format(name=name, axis=axis.axis)}" for name, axis in found]
