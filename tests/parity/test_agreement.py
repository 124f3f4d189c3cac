from __future__ import annotations

import numpy as np
import pytest

from deploytool.data.golden import Floor, Golden, Noise
from deploytool.parity.agreement import accuracy, agreement, mcnemar, wilson
from deploytool.spec import Preprocessing

NOISE = Noise(Floor(1e-7, 1e-8), Floor(1e-3, 1e-4))
SCORES = np.eye(6)[[0, 1, 2, 3, 4, 5, 0, 1]] * 2.0


def sample(reference: object = SCORES, labels: object = (-1,) * 8) -> Golden:
    scores = np.asarray(reference)
    pixels = np.zeros((len(scores), 0, 0, 3), np.uint8)
    return Golden(pixels, {}, {"logits": scores}, {"logits": scores}, np.asarray(labels), Preprocessing(), NOISE)


def test_equal_answers_agree() -> None:
    agreed = agreement({"logits": SCORES}, sample())
    assert agreed is not None
    assert (agreed.cases, agreed.top1, agreed.top5, agreed.flips) == (8, 1.0, 1.0, ())
    assert agreed.low == pytest.approx(0.6756, abs=1e-4)
    assert agreed.high == 1.0


def test_each_flip_has_its_margin() -> None:
    got = SCORES.copy()
    got[2] = got[3]
    got[5] = got[0]
    reference = SCORES.copy()
    reference[5, 0] = 1.9
    agreed = agreement({"logits": got}, sample(reference))
    assert agreed is not None
    assert agreed.top1 == 0.75
    assert [flip.case for flip in agreed.flips] == [2, 5]
    assert [flip.margin for flip in agreed.flips] == pytest.approx([1.0, 0.05])


def test_outputs_that_are_no_class_scores_have_no_agreement() -> None:
    for shape in ((8, 1), (8, 3, 4, 4)):
        assert agreement({"logits": np.zeros(shape)}, sample(np.zeros(shape))) is None
        assert accuracy({"logits": np.zeros(shape)}, sample(np.zeros(shape), [0] * 8)) is None


def test_accuracy_needs_labels() -> None:
    assert accuracy({"logits": SCORES}, sample()) is None
    labels = [0, 1, 2, 3, 4, 0, -1, -1]
    got = SCORES.copy()
    got[0] = got[1]
    got[5] = got[0] * 0 + np.eye(6)[0]
    measured = accuracy({"logits": got}, sample(labels=labels))
    assert measured is not None
    assert (measured.artifact, measured.source) == (5 / 6, 5 / 6)
    assert (measured.lost, measured.won, measured.p_value) == (1, 1, 1.0)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 0, 0.0, 1.0), (8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (500, 500, 0.9924, 1.0)],
)
def test_the_wilson_interval_has_the_published_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("lost", "won", "p"), [(0, 0, 1.0), (1, 1, 1.0), (6, 0, 0.03125), (1, 9, 0.021484375)])
def test_mcnemar_is_the_exact_binomial_test(lost: int, won: int, p: float) -> None:
    assert mcnemar(lost, won) == mcnemar(won, lost) == pytest.approx(p)


def test_mcnemar_does_not_overflow_for_many_cases() -> None:
    assert mcnemar(2000, 2000) == pytest.approx(1.0)
    assert mcnemar(0, 5000) < 1e-300
