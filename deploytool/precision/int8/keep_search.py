"""Finds the fewest layers to keep in floating point so that the rest may be INT8, in few evaluations of the metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from deploytool.precision import search
from deploytool.precision.search import Evaluation, Kept, SearchResult

MOST = 32  # sets that are judged: each is a graph of its own, run on all images
_LEAST = 4


def sensitivities(layers: Sequence[str], error: Callable[[Kept], float]) -> dict[str, float]:
    """The error of each layer as the only one in INT8; `error` gives that of the outputs for a set of kept layers.

    It needs no labels and few images: the order of the layers matters, not the numbers.
    """
    every = frozenset(layers)
    return {layer: error(every - {layer}) for layer in layers}


def fewest_layers(
    layers: Sequence[str],
    judge: Callable[[Kept], Evaluation],
    sensitivity: Mapping[str, float],
    costs: Mapping[str, float] | None = None,
    most: int = MOST,
) -> SearchResult:
    """A small set of layers to keep so that `judge` holds; None in the result if it fails for all layers kept.

    Layers are kept in the order of their `sensitivity`, the largest first, of equal ones the one that costs less, as in
    MACs; a number that is not finite counts as the largest. At most `most` sets are judged, of few layers less than a
    tenth of all sets with those that the sensitivities took; the first that holds may take a few more.
    """
    prices = costs or {}
    order = sorted(layers, key=lambda layer: (-_finite(sensitivity[layer]), prices.get(layer, 0.0)))
    share = max(_LEAST, (1 << len(order)) // 10 - len(order) - 1)
    return search.smallest_ordered_set(order, judge, min(most, share))


def _finite(value: float) -> float:
    """The value; infinity for one that is no number."""
    return float("inf") if math.isnan(value) else value
