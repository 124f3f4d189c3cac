"""Merges pointwise convolutions on equal slices of the channels into one grouped convolution.

Slices of one tensor, each multiplied by its own matrix, and the results laid side by side: that is what a grouped
convolution is, if all slices are equally wide and all results are. Nothing is added, only the weights are stacked.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deploytool.rewrites.forms import Outcome, on_branches
from deploytool.rewrites.graph.convolution import Convolution
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.parallel_branches import ParallelBranches, close


def apply(draft: EditableGraph) -> Outcome:
    """Merges every Split, pointwise convolutions of one shape, and Concat."""
    lacking = "no Split ends in pointwise convolutions"
    pointwise = Convolution.is_pointwise
    return on_branches(draft, lambda fan: fan.splits(pointwise), lambda fan: close(draft, fan, _merged(fan)), lacking)


def _merged(fan: ParallelBranches) -> Convolution | str:
    """The one convolution, or why there is none."""
    if len({(conv.weight.shape[1], conv.outputs // conv.group) for conv in fan.branches}) > 1:
        return "the slices are not equally wide"
    return replace(
        fan.branches[0],
        weight=np.concatenate([conv.weight for conv in fan.branches]),
        bias=np.concatenate([conv.bias for conv in fan.branches]),
        group=sum(conv.group for conv in fan.branches),
    )
