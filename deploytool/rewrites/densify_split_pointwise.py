"""Merges pointwise convolutions on slices of the channels into one that reads all channels, with zeros between.

Slices of one tensor, each multiplied by its own matrix, and the results laid side by side, are one product with the
block diagonal of those matrices: what is added are products with zero. The slices need not be equally wide. It
multiplies more, and is faster where one large product beats several small ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deploytool.rewrites.forms import Outcome, on_branches
from deploytool.rewrites.graph.convolution import Convolution, dense
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.parallel_branches import ParallelBranches, close


def apply(draft: EditableGraph) -> Outcome:
    """Merges every Split, pointwise convolutions and Concat."""
    lacking = "no Split ends in pointwise convolutions"
    pointwise = Convolution.is_pointwise
    return on_branches(draft, lambda fan: fan.splits(pointwise), lambda fan: close(draft, fan, _merged(fan)), lacking)


def _merged(fan: ParallelBranches) -> Convolution:
    """The block diagonal of the branches."""
    first = fan.branches[0]
    shape = (sum(conv.outputs for conv in fan.branches), sum(conv.inputs for conv in fan.branches), 1, 1)
    full, row, column = np.zeros(shape, first.weight.dtype), 0, 0
    for conv in fan.branches:
        full[row : row + conv.outputs, column : column + conv.inputs] = dense(conv)
        row, column = row + conv.outputs, column + conv.inputs
    return replace(first, weight=full, bias=np.concatenate([conv.bias for conv in fan.branches]), group=1)
