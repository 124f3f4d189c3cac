"""Takes out a channel shuffle that has an ungrouped convolution at one end: there, an order of channels is free.

A convolution of one group makes its channels in any order if its rows are put in that order, and reads them in any
order if its columns are. What lies between works channel by channel, and follows: a depthwise convolution takes its
kernels along.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import take
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.shuffle_chains import ShuffleChain, carry, find


def apply(draft: EditableGraph) -> Outcome:
    """Takes out every shuffle that can go for nothing."""
    fired, passed = [], []
    for found in find(draft):
        if isinstance(found, str):
            passed.append(found)
        elif 1 in (found.first.group, found.last.group):
            fired.append(_absorb(draft, found))
        else:
            passed.append(f"{found.shuffle.nodes[0].name}: the convolutions at both ends are grouped")
    return Outcome(tuple(fired), tuple(passed) if fired or passed else ("no channel shuffle is left",))


def _absorb(draft: EditableGraph, passage: ShuffleChain) -> str:
    """The name of the convolution that now does the shuffling."""
    first, last, shuffle = passage.first, passage.last, passage.shuffle
    if first.group == 1:
        early, order = passage.early, shuffle.order
        ordered = replace(first, weight=take(first.weight, order), bias=take(first.bias, order))
        new = [convolution.write(draft, ordered, first.source, "" if early else shuffle.result)]
        new += carry(draft, early, new[0].output[0], order, shuffle.result)
        draft.replace([first.node, *early, *shuffle.nodes], new)
        return new[0].name
    back = np.argsort(shuffle.order)
    new = carry(draft, passage.late, shuffle.source, back)
    source = new[-1].output[0] if new else shuffle.source
    new.append(convolution.write(draft, replace(last, weight=take(last.weight, back, 1)), source, last.result))
    draft.replace([*shuffle.nodes, *passage.late, last.node], new)
    return new[-1].name
