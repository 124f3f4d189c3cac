"""The rank of the right class among the scores of a classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.errors import BadInput


def ranks(answers: npt.NDArray[Any], targets: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The rank of each target in its row of `answers` (images × classes), 0 for the best.

    Of equal scores the first is the better; one that is no number is better than the target's, so that it never makes
    an answer right. Raises `BadInput` for a target that is no class.
    """
    answers, targets = np.asarray(answers), np.asarray(targets, np.int64)
    classes = answers.shape[1]
    wrong = targets[(targets < 0) | (targets >= classes)]
    if len(wrong):
        raise BadInput(f"label {wrong[0]} is none of the model's {classes} classes", "check the numbers in the labels")
    own = answers[np.arange(len(targets)), targets][:, None]
    behind = (answers < own) | ((answers == own) & (np.arange(classes) >= targets[:, None]))
    if np.issubdtype(answers.dtype, np.floating):
        behind &= ~np.isnan(own)
    return np.asarray(classes - behind.sum(axis=1), np.int64)
