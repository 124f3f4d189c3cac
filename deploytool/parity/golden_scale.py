"""Puts answers beside the largest golden ones, so that answers near zero are judged on the golden scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deploytool.data.golden import Arrays
from deploytool.results.output_parts import OutputPart


def beside_largest(arrays: Arrays, golden: Arrays, parts: Sequence[OutputPart]) -> Arrays:
    """The arrays, each followed by the golden answers of its name that are largest in a part of it.

    The scale of a check never falls below a tenth of its largest case. Arrays of labels and arrays without golden
    answers stay as they are.
    """
    return {
        name: np.concatenate([array, _largest_cases(golden[name], [part for part in parts if part.output == name])])
        if name in golden and array.dtype.kind == "f"
        else array
        for name, array in arrays.items()
    }


def _largest_cases(answers: np.ndarray, parts: Sequence[OutputPart]) -> np.ndarray:
    """For each part the golden case with the largest answer."""
    cases = set()
    for part in parts or (OutputPart(""),):
        values = np.asarray(part.of(answers), np.float64)
        sizes = np.where(part.marked(values), 0.0, np.abs(values)).reshape(len(answers), -1).max(axis=1, initial=0.0)
        cases.add(int(sizes.argmax()))
    return answers[sorted(cases)]
