"""Merges a MixConv, depthwise convolutions of several sizes on slices of the channels, into one of the largest size.

A depthwise convolution makes channel c from channel c alone, so which slice c stood in does not matter. A kernel of k
places with padding p is the same as one of K places with padding P that has it at place P - p among zeros (see
`convolution.window`): the added products are zeros times values, and zeros.
"""

from __future__ import annotations

from deploytool.graphs import convolution
from deploytool.graphs.draft import Draft
from deploytool.graphs.fans import close, fans
from deploytool.rewrites import Outcome


def apply(draft: Draft) -> Outcome:
    """Merges every Split, depthwise convolutions and Concat whose windows fit into one another."""
    fired, passed = [], []
    for fan in fans(draft):
        if isinstance(fan, str):
            passed.append(fan)
        elif fan.split is not None and all(conv.is_depthwise() for conv in fan.branches):
            merged = convolution.stack(fan.branches, sum(conv.group for conv in fan.branches))
            if isinstance(merged, str):
                passed.append(f"{fan.concat.name}: {merged}")
            else:
                fired.append(close(draft, fan, merged).name)
    return Outcome(tuple(fired), tuple(passed) if fired or passed else ("no Split ends in depthwise convolutions",))
