"""Character accuracy: 1 − character error rate."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from deploytool.metrics.edit_distance import accuracy

Floats = npt.NDArray[np.float64]
Text = str | Sequence[Hashable]


def scores(answers: Sequence[Text], targets: Sequence[Text]) -> Floats:
    """1 − character error rate of each image: below 0 where there are more errors than characters.

    Each answer and target is a string or a sequence of words, which are joined by spaces; of other tokens each is a
    character.
    """
    pairs = zip(answers, targets, strict=True)
    return np.array([accuracy(_characters(answer), _characters(target)) for answer, target in pairs], np.float64)


def value(answers: Sequence[Text], targets: Sequence[Text]) -> float:
    """The mean over images, each of which counts alike whatever its length."""
    return float(scores(answers, targets).mean())


def _characters(text: Text) -> Sequence[Hashable]:
    if isinstance(text, str):
        return text
    words = [item for item in text if isinstance(item, str)]
    return " ".join(words) if len(words) == len(text) else text
