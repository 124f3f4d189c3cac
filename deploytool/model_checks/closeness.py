"""Whether the outputs of two runs of a model are the same, or close."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch


def equal(expected: Mapping[str, torch.Tensor], actual: Mapping[str, torch.Tensor]) -> bool:
    """Whether all outputs have equal shapes and close values; NaN equals NaN."""
    return all(
        np.allclose(tensor.numpy(), actual[name].numpy(), equal_nan=True)
        if tensor.shape == actual[name].shape
        else False
        for name, tensor in expected.items()
    )


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Whether the largest error is within `tolerance`, relative to the largest value; NaN and infinity must match."""
    if actual.shape != expected.shape:
        return False
    left, right = actual.double().numpy(), expected.double().numpy()
    finite = np.isfinite(left) & np.isfinite(right)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True):
        return False
    largest = np.abs(right[finite]).max(initial=0.0)
    return bool(np.abs(left[finite] - right[finite]).max(initial=0.0) <= tolerance * largest)
