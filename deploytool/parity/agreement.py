"""Agreement of two classifiers: top-1 agreement with its Wilson interval, and accuracy with McNemar's test."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from deploytool.data.golden import Arrays, Golden
from deploytool.results.report import Accuracy, Agreement, ClassFlip

Floats = npt.NDArray[np.float64]

_Z = 1.959963984540054  # standard normal quantile of a 95 % interval


def agreement(answers: Arrays, sample: Golden) -> Agreement | None:
    """Top-1 agreement with the FP64 source, its Wilson interval, and every flip with its margin.

    A flip is a case whose best class differs. Its margin is the source's score of its own best class minus that of the
    artifact's, relative to the largest score: a flip of margin zero is a tie. None where the outputs are no class
    scores.
    """
    both = _scores(answers, sample)
    if both is None:
        return None
    got, expected = both
    artifact_best, source_best = got.argmax(axis=1), expected.argmax(axis=1)
    cases = np.arange(len(expected))
    margins = (expected[cases, source_best] - expected[cases, artifact_best]) / (np.abs(expected).max() or 1.0)
    flipped = np.flatnonzero(artifact_best != source_best)
    low, high = wilson(len(cases) - len(flipped), len(cases))
    flips = (
        ClassFlip(int(case), float(margins[case]), int(source_best[case]), int(artifact_best[case])) for case in flipped
    )
    by_margin = sorted(flips, key=lambda flip: -flip.margin)
    return Agreement(len(cases), 1 - len(flipped) / len(cases), low, high, _top5(got, expected), tuple(by_margin))


def _scores(answers: Arrays, sample: Golden) -> tuple[Floats, Floats] | None:
    """The artifact's and the source's scores (cases × classes); None if the outputs are anything else."""
    (name, expected), *other_outputs = sample.reference.items()
    is_float = np.issubdtype(expected.dtype, np.floating)
    if other_outputs or len(sample.noise.parts) > 1 or not is_float or expected.ndim != 2 or expected.shape[1] == 1:
        return None
    return np.asarray(answers[name], np.float64), expected


def _top5(got: Floats, expected: Floats) -> float:
    """The share of cases whose best class in `expected` is among the five best of `got`."""
    count = min(5, got.shape[1])
    best = np.argsort(-got, axis=1, kind="stable")[:, :count]
    return float((best == expected.argmax(axis=1)[:, None]).any(axis=1).mean())


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion; (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    share, spread = successes / trials, _Z**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy(answers: Arrays, sample: Golden) -> Accuracy | None:
    """The accuracy of artifact and source on the labels, and the p-value of their difference.

    None without labels, and where the outputs are no class scores.
    Source: Q. McNemar, 1947; the exact binomial test on the cases that only one of the two classifies correctly.
    """
    both, labelled = _scores(answers, sample), sample.labels >= 0
    if both is None or not labelled.any():
        return None
    artifact, source = (scores[labelled].argmax(axis=1) == sample.labels[labelled] for scores in both)
    lost, won = int((source & ~artifact).sum()), int((artifact & ~source).sum())
    return Accuracy(float(artifact.mean()), float(source.mean()), lost, won, mcnemar(lost, won))


def mcnemar(lost: int, won: int) -> float:
    """The two-sided exact p-value of `lost` against `won` under equal probability of both."""
    trials = lost + won
    tail = sum(math.comb(trials, count) for count in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / (1 << trials))
