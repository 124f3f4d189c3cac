"""Merges pointwise convolutions on slices of the channels into one dense, block-diagonal pointwise convolution.

Multiplying each slice of a tensor by its own matrix and concatenating the results is one product with the block
diagonal of those matrices: the added products are products with zero. The slices may differ in width. The merged
convolution takes more multiplications, and is faster where one large product beats several small ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deploytool.rewrites.forms import Outcome, on_branches
from deploytool.rewrites.graph.convolution import Convolution, dense_weight
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.parallel_branches import ParallelBranches, merge


def apply(graph: EditableGraph) -> Outcome:
    """Merges the pointwise convolutions between every Split and Concat."""
    no_match = "no Split ends in pointwise convolutions"

    def matches(motif: ParallelBranches) -> bool:
        return motif.splits(Convolution.is_pointwise)

    return on_branches(graph, matches, lambda motif: merge(graph, motif, _merged(motif)), no_match)


def _merged(motif: ParallelBranches) -> Convolution:
    """The convolution with the block diagonal of the branches' weights."""
    first = motif.branches[0]
    shape = (sum(conv.out_channels for conv in motif.branches), sum(conv.in_channels for conv in motif.branches), 1, 1)
    weight, row, column = np.zeros(shape, first.weight.dtype), 0, 0
    for conv in motif.branches:
        weight[row : row + conv.out_channels, column : column + conv.in_channels] = dense_weight(conv)
        row, column = row + conv.out_channels, column + conv.in_channels
    return replace(first, weight=weight, bias=np.concatenate([conv.bias for conv in motif.branches]), group=1)
