"""Takes out a channel shuffle between grouped convolutions by making the second one dense.

The first makes its channels as before, in each group filled up with zeros to a multiple of 8, as tensor cores like it.
What lies between works channel by channel and follows. The last reads channel order[i] where it read shuffled channel i
of its own group, and multiplies all other channels with zero.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import dense, take
from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.rewrites.graph.shuffle_chains import ShuffleChain, carry, everything, find, padded

_MULTIPLE = 8


def apply(draft: EditableGraph) -> Outcome:
    """Takes out every shuffle between two convolutions."""
    fired, passed = [], []
    for found in find(draft):
        if isinstance(found, str):
            passed.append(found)
        else:
            fired.append(_densify(draft, found))
    return Outcome(tuple(fired), tuple(passed) if fired or passed else ("no channel shuffle is left",))


def _densify(draft: EditableGraph, passage: ShuffleChain) -> str:
    """The name of the convolution that is dense now."""
    first, last, shuffle = passage.first, passage.last, passage.shuffle
    layout = padded(np.arange(first.outputs).reshape(first.group, -1).tolist(), _MULTIPLE)
    shuffled = np.where(layout >= 0, np.argsort(shuffle.order)[layout], -1)
    filled = replace(first, weight=take(first.weight, layout), bias=take(first.bias, layout))
    new = [convolution.write(draft, filled, first.source)]
    new += carry(draft, passage.early, new[-1].output[0], layout)
    new += carry(draft, passage.late, new[-1].output[0], shuffled)
    full = replace(last, weight=take(dense(last), shuffled, 1), group=1)
    new.append(convolution.write(draft, full, new[-1].output[0], last.result))
    draft.replace(everything(passage), new)
    return new[-1].name
