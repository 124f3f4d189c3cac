"""Faults that have really been shipped, one file a family, to be planted in a graph: a check must notice them.

A family yields faults in random order, each for one place of the graph and, where it has degrees, of random size.
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
)


@dataclass(frozen=True)
class Fault:
    """One fault: the tensor or node it spoils, its size where it has degrees, and how it is planted in a copy.

    `same` is the proof that it changes nothing the graph can compute, where there is one.
    """

    place: str
    plant: Callable[[FaultGraph], None]
    size: float | None = None
    same: str | None = None


class Family(Protocol):
    """Satisfied by a module `faults/<what_happened>.py`."""

    def faults(self, graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
        """The faults of this family that `graph` has a place for."""


def load(name: str) -> Family:
    """The family called `name`."""
    return cast("Family", import_module(f"deploytool.faults.kinds.{name}"))
