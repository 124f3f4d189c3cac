"""How often two answers name the same class, how sure one can be of that, and what labels say of both."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from deploytool.data.golden import Arrays, Golden
from deploytool.results.report import Accuracy, Agreement, ClassFlip

Floats = npt.NDArray[np.float64]

_Z = 1.959963984540054  # of a 95 % interval


def agreement(answers: Arrays, sample: Golden) -> Agreement | None:
    """Top-1 agreement with the FP64 source, its Wilson interval, and every flip by the margin it crossed.

    The margin of a flip is how far the source had its best class ahead of the one that was preferred, relative to the
    largest score: a flip of no margin was a tie. None where the model does not give scores of classes.
    """
    both = _scores(answers, sample)
    if both is None:
        return None
    got, expected = both
    mine, theirs = got.argmax(axis=1), expected.argmax(axis=1)
    cases = np.arange(len(expected))
    lead = (expected[cases, theirs] - expected[cases, mine]) / (np.abs(expected).max() or 1.0)
    flips = np.flatnonzero(mine != theirs)
    low, high = wilson(len(cases) - len(flips), len(cases))
    each = (ClassFlip(int(case), float(lead[case]), int(theirs[case]), int(mine[case])) for case in flips)
    worst = sorted(each, key=lambda flip: -flip.margin)
    return Agreement(len(cases), 1 - len(flips) / len(cases), low, high, _top5(got, expected), tuple(worst))


def _scores(answers: Arrays, sample: Golden) -> tuple[Floats, Floats] | None:
    """The artifact's and the source's scores (cases × classes), where the model has that one output of one scale."""
    (name, expected), *more = sample.reference.items()
    numbers = not np.issubdtype(expected.dtype, np.floating)
    if more or len(sample.noise.parts) > 1 or numbers or expected.ndim != 2 or expected.shape[1] == 1:
        return None
    return np.asarray(answers[name], np.float64), expected


def _top5(got: Floats, expected: Floats) -> float:
    """The share of cases whose best class in `expected` is among the five best of `got`."""
    count = min(5, got.shape[1])
    best = np.argsort(-got, axis=1, kind="stable")[:, :count]
    return float((best == expected.argmax(axis=1)[:, None]).any(axis=1).mean())


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share; (0, 1) of no trials."""
    if not trials:
        return 0.0, 1.0
    share, spread = successes / trials, _Z**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy(answers: Arrays, sample: Golden) -> Accuracy | None:
    """The accuracy of artifact and source on the labels, and whether they differ by more than chance.

    None where there are no labels, or the model does not give scores of classes.
    Source: Q. McNemar, 1947; the exact binomial test on the cases that only one of the two has right.
    """
    both, labelled = _scores(answers, sample), sample.labels >= 0
    if both is None or not labelled.any():
        return None
    mine, theirs = (scores[labelled].argmax(axis=1) == sample.labels[labelled] for scores in both)
    lost, won = int((theirs & ~mine).sum()), int((mine & ~theirs).sum())
    return Accuracy(float(mine.mean()), float(theirs.mean()), lost, won, mcnemar(lost, won))


def mcnemar(lost: int, won: int) -> float:
    """The two-sided exact p-value that `lost` and `won` are as uneven by chance."""
    trials = lost + won
    tail = sum(math.comb(trials, count) for count in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / (1 << trials))
