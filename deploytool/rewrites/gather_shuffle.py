"""Writes a channel shuffle, a Reshape, a Transpose and a Reshape, as one Gather.

Dealing the channels of g groups of n out in turn puts channel a n + b at place b g + a. A Gather with that order copies
the same values to the same places.
"""

from __future__ import annotations

import numpy as np

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.shuffle_chains import shuffles


def apply(draft: EditableGraph) -> Outcome:
    """Replaces every shuffle of three nodes."""
    fired = []
    for shuffle in shuffles(draft):
        if len(shuffle.nodes) > 1:
            like = shuffle.nodes[0]
            order = draft.weight(f"{like.name.rpartition('/')[0]}/order", shuffle.order.astype(np.int64))
            gather = draft.node("Gather", like, [shuffle.source, order], shuffle.result, axis=1)
            draft.replace(shuffle.nodes, [gather])
            fired.append(gather.name)
    return Outcome(tuple(fired), () if fired else ("no shuffle of Reshape, Transpose and Reshape is left",))
