"""Merges convolutions of one tensor whose results are concatenated, as in a Fire module, into one convolution.

Each output channel is a separate sum over the same input, so the weights can be stacked; a smaller window is embedded
among zeros in the largest (see `convolution.window`). Windows of different sizes cost additional multiplications, so
the rewrite suits GPUs that are bound by kernel launches, not by arithmetic.
"""

from __future__ import annotations

from deploytool.rewrites.forms import Outcome, on_branches
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.parallel_branches import ParallelBranches, merge


def apply(graph: EditableGraph) -> Outcome:
    """Merges every Concat of convolutions of one tensor if one window can contain all of theirs."""
    no_match = "no Concat joins convolutions of one tensor"

    def matches(motif: ParallelBranches) -> bool:
        return motif.split is None

    return on_branches(graph, matches, lambda motif: merge(graph, motif, _merged(motif)), no_match)


def _merged(motif: ParallelBranches) -> Convolution | str:
    """The merged convolution, or why there is none."""
    if any(conv.group > 1 for conv in motif.branches):
        return "the convolutions are grouped"
    return convolution.stack(motif.branches, 1)
