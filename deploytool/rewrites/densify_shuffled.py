"""Removes a channel shuffle between grouped convolutions by making the second convolution dense.

The first convolution keeps its groups, each padded with zero channels to a multiple of 8, which tensor cores need. The
nodes in between work channel by channel and process the padded channels. The last convolution reads channel order[i]
where it read shuffled channel i of its own group, and has zero weights for all other channels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import dense_weight, take_channels
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.shuffle_chains import ShuffleChain, all_nodes, copy_nodes, find, padded_layout

_MULTIPLE = 8  # channels


def apply(graph: EditableGraph) -> Outcome:
    """Removes every shuffle between two convolutions."""
    applied, skipped = [], []
    for chain in find(graph):
        if isinstance(chain, str):
            skipped.append(chain)
        else:
            applied.append(_densify(graph, chain))
    return Outcome(tuple(applied), tuple(skipped) if applied or skipped else ("no channel shuffle is left",))


def _densify(graph: EditableGraph, chain: ShuffleChain) -> str:
    """Makes the last convolution dense and removes the shuffle; returns the name of the convolution."""
    first, last, shuffle = chain.first, chain.last, chain.shuffle
    layout = padded_layout(np.arange(first.out_channels).reshape(first.group, -1).tolist(), _MULTIPLE)
    shuffled = np.where(layout >= 0, np.argsort(shuffle.order)[layout], -1)
    padded = replace(first, weight=take_channels(first.weight, layout), bias=take_channels(first.bias, layout))
    new = [convolution.write(graph, padded, first.input)]
    new += copy_nodes(graph, chain.early, new[-1].output[0], layout)
    new += copy_nodes(graph, chain.late, new[-1].output[0], shuffled)
    dense = replace(last, weight=take_channels(dense_weight(last), shuffled, 1), group=1)
    new.append(convolution.write(graph, dense, new[-1].output[0], last.output))
    graph.replace(all_nodes(chain), new)
    return new[-1].name
