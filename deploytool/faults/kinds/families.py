"""Fault families: known defects of exported models, one module a family, for planting in a graph.

A family yields faults in random order, each at one location of the graph and, if it has degrees, of random size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

import numpy as np

from deploytool.faults.kinds.graph import FaultGraph

FAMILIES = (
    "shuffle_skipped",
    "channels_swapped",
    "channel_zeroed",
    "bias_dropped",
    "activation_dropped",
    "activation_swapped",
    "norm_eps",
    "padding_moved",
    "pad_counted",
    "ceil_mode",
    "classifier_transposed",
    "classes_shifted",
    "weight_scaled",
    "weights_clipped",
    "subnormals_flushed",
    "colours_swapped",
    "normalisation",
    "stale_weights",
    "mask_inverted",
    "mask_dropped",
    "heads_permuted",
    "attention_scale",
    "softmax_axis",
    "position_shifted",
    "rotary_swapped",
    "token_dropped",
    "layer_norm_eps",
    "gelu_swapped",
    "boxes_reformatted",
    "box_constants",
)


@dataclass(frozen=True)
class Fault:
    """One fault: the tensor or node that it changes, the function that plants it in a copy, and its size if it has one.

    `same` is the reason why the fault cannot change any answer, if there is one.
    """

    place: str
    plant: Callable[[FaultGraph], None]
    size: float | None = None
    same: str | None = None


class Family(Protocol):
    """The interface of a module `faults/kinds/<family>.py`."""

    def faults(self, graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
        """The faults of this family that apply to `graph`."""


def load(name: str) -> Family:
    """The family module of that name."""
    return cast("Family", import_module(f"deploytool.faults.kinds.{name}"))
