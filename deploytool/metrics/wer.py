"""Word accuracy: 1 − word error rate, of texts, words or tokens."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from deploytool.metrics.edit_distance import accuracy

Floats = npt.NDArray[np.float64]
Text = str | Sequence[Hashable]


def scores(answers: Sequence[Text], targets: Sequence[Text]) -> Floats:
    """1 − word error rate of each image: below 0 where there are more errors than words.

    Each answer and target is a sequence of words or of numbers of tokens; a string is split at white space.
    """
    pairs = zip(answers, targets, strict=True)
    return np.array([accuracy(_words(answer), _words(target)) for answer, target in pairs], np.float64)


def value(answers: Sequence[Text], targets: Sequence[Text]) -> float:
    """The mean over images, each of which counts alike whatever its length."""
    return float(scores(answers, targets).mean())


def _words(text: Text) -> Sequence[Hashable]:
    return text.split() if isinstance(text, str) else text
