"""Chooses the fastest of several forms of one graph, and the plain form unless another is surely faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deploytool.benchmark.ratio import Ratio

MIN_RATIO = 0.98  # of the plain form's speed, at any batch: less is no noise


def is_faster(ratios: Sequence[Ratio]) -> bool:
    """Whether a form is surely faster than the plain one at some batch, and slower at none."""
    return any(ratio.low > 1 for ratio in ratios) and all(ratio.value >= MIN_RATIO for ratio in ratios)


def choose(ratios: Mapping[str, Sequence[Ratio]], plain: str) -> str:
    """The name of the form to keep, given how many times faster than the plain form each is at each batch."""
    gains = {
        name: float(np.mean(np.log([ratio.value for ratio in each])))
        for name, each in ratios.items()
        if each and is_faster(each)
    }
    return max(gains, key=lambda name: gains[name], default=plain)
