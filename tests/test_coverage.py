from __future__ import annotations

from pathlib import Path

import numpy as np

from deploytool import coverage, golden, weights_file
from deploytool.backends import eager


def test_it_hears_every_channel_and_answers_as_the_model(finished: Path) -> None:
    sample = golden.read(finished / "record" / "golden.npz")
    weights = finished / "instantiate" / "weights.safetensors"
    heard = coverage.listen(eager.module(weights), weights_file.definition(weights), sample.inputs)
    answers, extremes = heard.answers, heard.extremes
    np.testing.assert_allclose(answers["logits"], sample.outputs["logits"], atol=1e-6)
    assert len(extremes) == len(sample.labels)
    # up and down: three batch norms and convolutions and two ReLUs of 8 channels, a pool of 16, 10 classes
    assert extremes.shape[1] == 2 * (3 * 8 + 3 * 8 + 2 * 8 + 16 + 10)
    assert (extremes >= 0).all()
    assert extremes.any()


def test_the_cases_that_add_most_are_chosen() -> None:
    extremes = np.array([[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0.5]])
    assert coverage.choose(extremes, 1, []) == [1]
    assert sorted(coverage.choose(extremes, 3, [])) == [0, 1, 3]
    assert sorted(coverage.choose(extremes, 9, [])) == [0, 1, 2, 3]


def test_the_first_are_taken_before_any_other() -> None:
    extremes = np.array([[1.0, 0, 0], [0, 1, 1], [0, 0, 1]])
    assert coverage.choose(extremes, 1, [2]) == [2]
    assert coverage.choose(extremes, 2, [0, 2]) == [0, 2]
    assert coverage.choose(extremes, 3, [2]) == [2, 0, 1]


def test_a_model_that_answers_nothing_has_no_preference() -> None:
    assert coverage.choose(np.zeros((3, 4)), 2, []) == [0, 1]
