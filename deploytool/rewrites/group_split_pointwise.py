"""Merges pointwise convolutions on equal slices of the channels into one grouped convolution.

A grouped convolution multiplies each slice of a tensor by its own matrix and concatenates the results, if all slices
have one width and all results have one width. The weights are stacked, and no multiplication is added.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deploytool.rewrites.forms import Outcome, on_branches
from deploytool.rewrites.graph.convolution import Convolution
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.parallel_branches import ParallelBranches, merge


def apply(graph: EditableGraph) -> Outcome:
    """Merges the pointwise convolutions of one shape between every Split and Concat."""
    no_match = "no Split ends in pointwise convolutions"

    def matches(motif: ParallelBranches) -> bool:
        return motif.splits(Convolution.is_pointwise)

    return on_branches(graph, matches, lambda motif: merge(graph, motif, _merged(motif)), no_match)


def _merged(motif: ParallelBranches) -> Convolution | str:
    """The grouped convolution, or why there is none."""
    if len({(conv.weight.shape[1], conv.out_channels // conv.group) for conv in motif.branches}) > 1:
        return "the slices differ in width"
    return replace(
        motif.branches[0],
        weight=np.concatenate([conv.weight for conv in motif.branches]),
        bias=np.concatenate([conv.bias for conv in motif.branches]),
        group=sum(conv.group for conv in motif.branches),
    )
