"""Merges a MixConv (depthwise convolutions of several kernel sizes on slices of the channels) into one convolution.

A depthwise convolution computes channel c from channel c alone, so the slice that c belongs to does not matter. A
kernel of size k with padding p equals a kernel of size K with padding P that contains it at offset P - p among zeros
(see `convolution.window`): the added products are products with zero.
"""

from __future__ import annotations

from deploytool.rewrites.forms import Outcome, on_branches
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.parallel_branches import ParallelBranches, merge


def apply(graph: EditableGraph) -> Outcome:
    """Merges the depthwise convolutions between every Split and Concat if one window can contain all of theirs."""
    no_match = "no Split ends in depthwise convolutions"

    def matches(motif: ParallelBranches) -> bool:
        return motif.splits(Convolution.is_depthwise)

    return on_branches(graph, matches, lambda motif: merge(graph, motif, _merged(motif)), no_match)


def _merged(motif: ParallelBranches) -> Convolution | str:
    """The merged convolution, or why there is none."""
    return convolution.stack(motif.branches, sum(conv.group for conv in motif.branches))
