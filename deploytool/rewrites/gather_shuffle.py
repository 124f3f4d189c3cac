"""Replaces the Reshape, Transpose and Reshape of a channel shuffle by one Gather.

A shuffle of g groups of n channels moves channel a n + b to position b g + a. A Gather with that order copies the same
values to the same positions.
"""

from __future__ import annotations

import numpy as np

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.shuffle_chains import find_shuffles


def apply(graph: EditableGraph) -> Outcome:
    """Replaces every shuffle of three nodes."""
    applied = []
    for shuffle in find_shuffles(graph):
        if len(shuffle.nodes) > 1:
            like = shuffle.nodes[0]
            order = graph.add_weight(f"{like.name.rpartition('/')[0]}/order", shuffle.order.astype(np.int64))
            gather = graph.make_node("Gather", like, [shuffle.input, order], shuffle.output, axis=1)
            graph.replace(shuffle.nodes, [gather])
            applied.append(gather.name)
    return Outcome(tuple(applied), () if applied else ("no shuffle of Reshape, Transpose and Reshape is left",))
