"""Relative errors and noise floors."""

from __future__ import annotations

import json

import numpy as np

from deploytool.blame.reference_tensor import ReferenceTensor, relative_error


def test_an_error_is_relative_to_the_largest_value_and_always_finite() -> None:
    assert relative_error(np.array([1.0, 4.5]), np.array([1.0, 4.0])) == 0.125
    assert relative_error(np.array([0.5]), np.array([0.0])) == 0.5
    assert relative_error(np.zeros((2, 0)), np.zeros((2, 0))) == 0.0
    for value in (np.nan, np.inf):
        assert json.loads(json.dumps(relative_error(np.array([value]), np.array([1.0])), allow_nan=False)) > 1e300


def test_the_floor_is_a_multiple_of_the_noise_and_at_least_the_rounding() -> None:
    quiet, noisy = (ReferenceTensor("", "", np.zeros(1), noise, 1e3 * noise) for noise in (0.0, 1e-5))
    assert 0 < quiet.floor(half=False) < 1e-5 < noisy.floor(half=False)
    assert 1e-3 < quiet.floor(half=True) < 1e-2 < noisy.floor(half=True)
