"""The edit distance of Levenshtein, and the accuracy of sequences that follows from it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """The least number of insertions, deletions and substitutions that turn `first` into `second`."""
    # in numpy, a row of the table at once: an extra package (rapidfuzz, jiwer) for these lines would be one more to
    # install, for sequences that take longer to compute than to compare
    numbers: dict[Hashable, int] = {}
    one, other = (np.array([numbers.setdefault(item, len(numbers)) for item in row]) for row in (first, second))
    columns = np.arange(len(other) + 1)
    row = columns.copy()
    for place, item in enumerate(one, 1):
        changed = np.minimum(row[1:] + 1, row[:-1] + (other != item))
        # insertions: each entry is at most its left neighbour's and 1
        row = np.minimum.accumulate(np.concatenate(([place], changed)) - columns) + columns
    return int(row[-1])


def accuracy(answer: Sequence[Hashable], target: Sequence[Hashable]) -> float:
    """1 − errors / length of the target: 1 without errors, and below 0 for more errors than the target has items.

    For an empty target, it is 1 − errors.
    """
    return 1 - distance(answer, target) / max(1, len(target))
