"""Merges convolutions that read the same tensor and are laid side by side, as in a Fire module, into one.

Each result channel is a sum of its own over the same input, so the weights may be stacked; a smaller window goes among
zeros in the largest (see `convolution.window`). Of windows of different sizes it multiplies more: it is for machines
that wait for launches, not for arithmetic.
"""

from __future__ import annotations

from deploytool.rewrites.forms import Outcome, on_branches
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.parallel_branches import ParallelBranches, close


def apply(draft: EditableGraph) -> Outcome:
    """Merges every Concat of convolutions of one tensor whose windows fit into one another."""
    lacking = "no Concat joins convolutions of one tensor"
    return on_branches(draft, lambda fan: fan.split is None, lambda fan: close(draft, fan, _merged(fan)), lacking)


def _merged(fan: ParallelBranches) -> Convolution | str:
    """The one convolution that does the work of all, or why there is none."""
    if any(conv.group > 1 for conv in fan.branches):
        return "the convolutions are grouped"
    return convolution.stack(fan.branches, 1)
