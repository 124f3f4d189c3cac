"""Chooses the fastest form of a graph; keeps the original unless another form is significantly faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from deploytool.benchmark.ratio import Ratio

MIN_RATIO = 0.98  # of the original's speed at every batch size: a smaller ratio is not noise


def is_faster(ratios: Sequence[Ratio]) -> bool:
    """Whether a form is significantly faster than the original at one batch size, and slower at none."""
    return any(ratio.low > 1 for ratio in ratios) and all(ratio.value >= MIN_RATIO for ratio in ratios)


def choose(ratios: Mapping[str, Sequence[Ratio]], plain: str) -> str:
    """The name of the form to keep; `ratios` holds the speed-up of each form over `plain` at each batch size.

    Among the forms that are faster, the largest geometric mean decides.
    """
    gains = {
        name: float(np.mean(np.log([ratio.value for ratio in by_batch])))
        for name, by_batch in ratios.items()
        if by_batch and is_faster(by_batch)
    }
    return max(gains, key=lambda name: gains[name], default=plain)
