"""Removes a channel shuffle that follows or precedes an ungrouped convolution, by permuting that convolution's weights.

An ungrouped convolution produces its channels in any order if its output rows are permuted, and reads them in any order
if its input columns are. The nodes in between work channel by channel and need no change, except that the kernels of a
depthwise convolution are permuted too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import take_channels
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.shuffle_chains import ShuffleChain, copy_nodes, find


def apply(graph: EditableGraph) -> Outcome:
    """Removes every shuffle that has an ungrouped convolution at one end of its chain."""
    applied, skipped = [], []
    for chain in find(graph):
        if isinstance(chain, str):
            skipped.append(chain)
        elif 1 in (chain.first.group, chain.last.group):
            applied.append(_absorb(graph, chain))
        else:
            skipped.append(f"{chain.shuffle.nodes[0].name}: the convolutions at both ends are grouped")
    return Outcome(tuple(applied), tuple(skipped) if applied or skipped else ("no channel shuffle is left",))


def _absorb(graph: EditableGraph, chain: ShuffleChain) -> str:
    """Permutes the weights of the ungrouped convolution; returns the name of its new node."""
    first, last, shuffle = chain.first, chain.last, chain.shuffle
    if first.group == 1:
        early, order = chain.early, shuffle.order
        permuted = replace(first, weight=take_channels(first.weight, order), bias=take_channels(first.bias, order))
        new = [convolution.write(graph, permuted, first.input, "" if early else shuffle.output)]
        new += copy_nodes(graph, early, new[0].output[0], order, shuffle.output)
        graph.replace([first.node, *early, *shuffle.nodes], new)
        return new[0].name
    inverse = np.argsort(shuffle.order)
    new = copy_nodes(graph, chain.late, shuffle.input, inverse)
    source = new[-1].output[0] if new else shuffle.input
    permuted = replace(last, weight=take_channels(last.weight, inverse, 1))
    new.append(convolution.write(graph, permuted, source, last.output))
    graph.replace([*shuffle.nodes, *chain.late, last.node], new)
    return new[-1].name
