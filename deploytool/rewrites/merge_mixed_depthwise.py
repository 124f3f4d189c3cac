"""Merges a MixConv, depthwise convolutions of several sizes on slices of the channels, into one of the largest size.

A depthwise convolution makes channel c from channel c alone, so which slice c stood in does not matter. A kernel of k
places with padding p is the same as one of K places with padding P that has it at place P - p among zeros (see
`convolution.window`): the added products are zeros times values, and zeros.
"""

from __future__ import annotations

from deploytool.rewrites.forms import Outcome, on_branches
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.parallel_branches import ParallelBranches, close


def apply(draft: EditableGraph) -> Outcome:
    """Merges every Split, depthwise convolutions and Concat whose windows fit into one another."""
    lacking = "no Split ends in depthwise convolutions"
    depthwise = Convolution.is_depthwise
    return on_branches(draft, lambda fan: fan.splits(depthwise), lambda fan: close(draft, fan, _merged(fan)), lacking)


def _merged(fan: ParallelBranches) -> Convolution | str:
    """The one convolution that does the work of all, or why there is none."""
    return convolution.stack(fan.branches, sum(conv.group for conv in fan.branches))
