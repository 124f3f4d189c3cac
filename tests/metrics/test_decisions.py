from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from deploytool.errors import BadInput
from deploytool.metrics import decisions
from deploytool.results.measure import Inferiority
from deploytool.spec import Task
from deploytool.tasks.detections import Detections


def scores(count: int, flipped: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    source = [row for row in rng.standard_normal((count, 6))]  # noqa: C416  # a list of rows
    artifact = [row + 1e-3 for row in source]
    for row in artifact[:flipped]:
        row[row.argmin()] = 100
    return artifact, source


@pytest.mark.parametrize(
    ("images", "flipped", "verdict"),
    [
        (1000, 0, Inferiority.NOT_WORSE),
        (1000, 2, Inferiority.NOT_WORSE),
        (1000, 40, Inferiority.WORSE),
        (100, 0, Inferiority.NOT_DECIDED),
        (1000, 9, Inferiority.NOT_DECIDED),
    ],
)
def test_the_verdict_is_that_of_the_interval(images: int, flipped: int, verdict: Inferiority) -> None:
    found = decisions.measure(Task.CLASSIFY, *scores(images, flipped))
    assert found.artifact == pytest.approx(1 - flipped / images)
    assert (found.source, found.images) == (1.0, images)
    assert found.difference.low <= -flipped / images <= found.difference.high
    assert found.verdict is verdict


def test_the_interval_is_that_of_clopper_and_pearson() -> None:
    """10 of 200: 2.424 % and 9.003 %, by the quantiles of the beta distribution."""
    found = decisions.measure(Task.CLASSIFY, *scores(200, 10), margin=0.2)
    rng = np.random.default_rng(1)
    low, high = np.quantile(rng.beta(10, 191, 200_000), 0.025), np.quantile(rng.beta(11, 190, 200_000), 0.975)
    assert 0 < -found.difference.high <= low
    assert -found.difference.low == pytest.approx(high, abs=0.004)


def test_no_interval_reaches_beyond_full_agreement() -> None:
    assert decisions.measure(Task.CLASSIFY, *scores(30, 0)).difference.high == 0


def test_any_of_equal_best_classes_is_the_source_s_decision() -> None:
    source = [np.array([1.0, 3.0, 3.0])]
    answers = [[0.0, 1.0, 2.0], [0.0, 2.0, 1.0], [3.0, 1.0, 2.0], [np.nan, 1.0, 2.0], [np.nan] * 3]
    got = [decisions.agreement(Task.CLASSIFY, [np.array(each)], source)[0] for each in answers]
    assert got == [1, 1, 0, 1, 0]


def test_pixels_agree_by_their_share() -> None:
    first, other = np.zeros((4, 5), np.int16), np.zeros((4, 5), np.int16)
    other[0, :2] = 3
    assert decisions.agreement(Task.SEGMENT, [first, other], [other, other]).tolist() == [0.9, 1.0]
    assert decisions.agreement(Task.SEGMENT, [first], [other.T]).tolist() == [0.0]


Row = tuple[float, float, float, float, float, int]


def objects(*rows: Row) -> Detections:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


BOX, OTHER = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 30.0)


@pytest.mark.parametrize(
    ("got", "expected", "agreement"),
    [
        ([], [], 1.0),
        ([], [(*BOX, 0.9, 1)], 0.0),
        ([(*BOX, 0.9, 1)], [], 0.0),
        ([(*BOX, 0.5, 1), (*OTHER, 0.9, 2)], [(*OTHER, 0.8, 2), (*BOX, 0.8, 1)], 1.0),
        ([(*BOX, 0.9, 2)], [(*BOX, 0.9, 1)], 0.0),
        ([(*BOX, 0.9, 1), (*BOX, 0.8, 1)], [(*BOX, 0.9, 1)], 2 / 3),
        ([(0.0, 0.0, 10.0, 5.1, 0.9, 1)], [(*BOX, 0.9, 1)], 1.0),
        ([(0.0, 0.0, 10.0, 4.9, 0.9, 1)], [(*BOX, 0.9, 1)], 0.0),
    ],
)
def test_detections_agree_as_sets(got: Sequence[Row], expected: Sequence[Row], agreement: float) -> None:
    assert decisions.agreement(Task.DETECT, [objects(*got)], [objects(*expected)])[0] == pytest.approx(agreement)


def test_tokens_agree_by_their_edit_distance() -> None:
    got = decisions.agreement(
        Task.TOKENS, [tuple("abcd"), (), (), tuple("ab")], [tuple("abxd"), (), ("a",), tuple("abcd")]
    )
    assert got.tolist() == [0.75, 1.0, 0.0, 0.5]


def test_embeddings_agree_by_their_cosine() -> None:
    one, other = np.array([3.0, 4.0]), np.array([4.0, 3.0])
    got = decisions.agreement(Task.EMBED, [one, one, one], [one * 7, other, -one])
    assert got == pytest.approx([1, 0.96, 0])


def test_answers_to_other_images_are_refused() -> None:
    with pytest.raises(BadInput, match="2 answers of the artifact and 1 of the source"):
        decisions.agreement(Task.CLASSIFY, [np.ones(2)] * 2, [np.ones(2)])
