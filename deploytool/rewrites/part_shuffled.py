"""Takes out a channel shuffle between grouped convolutions by making the first one in parts, one for each later group.

Group t of the last convolution reads channels from every group of the first. A grouped convolution with only the rows
of those channels makes them; a Concat of one such part for each t lays out what the last reads, group after group.
Every part has the same number of rows in each of its groups, rows of zeros filling it up to a multiple of 16: that is
the block in which ONNX Runtime keeps channels on AVX-512, and what does not fill blocks is computed much slower.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile

import numpy as np
from onnx import NodeProto

from deploytool.graphs import convolution
from deploytool.graphs.convolution import take
from deploytool.graphs.draft import Array, Draft
from deploytool.graphs.fans import is_unary
from deploytool.graphs.passages import Passage, carry, everything, padded, passages
from deploytool.rewrites import Outcome

_BLOCK = 16


def apply(draft: Draft) -> Outcome:
    """Takes out every shuffle between two convolutions."""
    fired, passed = [], []
    for found in passages(draft):
        if isinstance(found, str):
            passed.append(found)
        else:
            fired += _part(draft, found)
    return Outcome(tuple(fired), tuple(passed) if fired or passed else ("no channel shuffle is left",))


def _part(draft: Draft, passage: Passage) -> list[str]:
    """The names of the convolutions that the first one has become."""
    first, last, shuffle = passage.first, passage.last, passage.shuffle
    layout = _layout(passage)
    alone = list(takewhile(lambda node: is_unary(draft, node), passage.early))
    parts: list[NodeProto] = []
    ends: list[str] = []
    for rows in np.split(layout, last.group):
        part = replace(first, weight=take(first.weight, rows), bias=take(first.bias, rows))
        parts.append(convolution.write(draft, part, first.source))
        ends.append(parts[-1].output[0])
    tails = [carry(draft, alone, end, layout) for end in ends]
    joined = [tail[-1].output[0] if tail else end for tail, end in zip(tails, ends, strict=True)]
    new = [draft.node("Concat", first.node, joined, axis=1)]
    new += carry(draft, passage.early[len(alone) :], new[-1].output[0], layout)
    shuffled = np.where(layout >= 0, np.argsort(shuffle.order)[layout], -1)
    new += carry(draft, passage.late, new[-1].output[0], shuffled)
    new.append(convolution.write(draft, _reading(last, shuffled), new[-1].output[0], last.result))
    draft.replace(everything(passage), [*parts, *(node for tail in tails for node in tail), *new])
    return [part.name for part in parts]


def _layout(passage: Passage) -> Array:
    """The first convolution's channels in the order of the parts, and in each part of its groups."""
    first, last = passage.first, passage.last
    rows = first.outputs // first.group
    wanted = passage.shuffle.order.reshape(last.group, -1)
    return padded([[c for c in part if c // rows == group] for part in wanted for group in range(first.group)], _BLOCK)


def _reading(last: convolution.Convolution, shuffled: Array) -> convolution.Convolution:
    """The last convolution, reading the shuffled channels of that layout, each in its own group as before."""
    width, rows = last.weight.shape[1], last.outputs // last.group
    weights = []
    for group, columns in enumerate(np.split(shuffled, last.group)):
        mine = np.where(columns >= 0, columns - group * width, -1)
        weights.append(take(last.weight[group * rows : (group + 1) * rows], mine, 1))
    return replace(last, weight=np.concatenate(weights))
