"""Merges pointwise convolutions on equal slices of the channels into one grouped convolution.

Slices of one tensor, each multiplied by its own matrix, and the results laid side by side: that is what a grouped
convolution is, if all slices are equally wide and all results are. Nothing is added, only the weights are stacked.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deploytool.graphs.convolution import Convolution
from deploytool.graphs.draft import Draft
from deploytool.graphs.fans import Fan, close, fans
from deploytool.rewrites import Outcome


def apply(draft: Draft) -> Outcome:
    """Merges every Split, pointwise convolutions of one shape, and Concat."""
    fired, passed = [], []
    for fan in fans(draft):
        if isinstance(fan, str):
            passed.append(fan)
        elif fan.split is not None and all(conv.is_pointwise() for conv in fan.branches):
            if len({(conv.weight.shape[1], conv.outputs // conv.group) for conv in fan.branches}) > 1:
                passed.append(f"{fan.concat.name}: the slices are not equally wide")
            else:
                fired.append(close(draft, fan, _merged(fan)).name)
    return Outcome(tuple(fired), tuple(passed) if fired or passed else ("no Split ends in pointwise convolutions",))


def _merged(fan: Fan) -> Convolution:
    return replace(
        fan.branches[0],
        weight=np.concatenate([conv.weight for conv in fan.branches]),
        bias=np.concatenate([conv.bias for conv in fan.branches]),
        group=sum(conv.group for conv in fan.branches),
    )
