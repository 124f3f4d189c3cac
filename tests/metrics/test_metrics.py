"""The ready metrics other than mAP, and their catalog."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploytool.errors import BadInput
from deploytool.metrics import catalog, cer, cosine, edit_distance, miou, top1, top5, wer
from deploytool.results.measure import Inferiority
from deploytool.spec import Task

LOGITS = np.array([[0.1, 0.9, 0.5, 0.2, 0.3, 0.4], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1.0, 2, 3, 4, 5, 6]])


def test_top1_and_top5_count_the_right_class() -> None:
    targets = np.array([1, 5, 1])
    assert top1.scores(LOGITS, targets).tolist() == [1, 0, 0]
    assert top5.scores(LOGITS, targets).tolist() == [1, 0, 1]
    assert top1.value(LOGITS, targets) == pytest.approx(1 / 3)
    assert top5.value(LOGITS, targets) == pytest.approx(2 / 3)


def test_top1_takes_the_first_of_equal_scores_as_argmax_does() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.integers(0, 3, (500, 4)).astype(np.float32), rng.integers(0, 4, 500)
    assert top1.scores(logits, targets).tolist() == (logits.argmax(axis=1) == targets).tolist()


def test_a_score_that_is_no_number_makes_no_answer_right() -> None:
    logits = np.array([[np.nan, 1.0], [np.nan, 1.0], [np.nan, np.nan]])
    assert top1.scores(logits, np.array([0, 1, 0])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("label", [-1, 6])
def test_a_label_that_is_no_class_is_an_error(label: int) -> None:
    with pytest.raises(BadInput, match=f"label {label} is none of the model's 6 classes"):
        top1.scores(LOGITS, np.array([1, label, 1]))


def test_cosine_is_that_of_the_angle() -> None:
    rng = np.random.default_rng(1)
    angles = rng.uniform(0, 6, 50)
    answers = rng.uniform(1, 9, 50)[:, None] * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    np.testing.assert_allclose(cosine.scores(answers, np.tile([1.0, 0.0], (50, 1))), np.cos(angles), atol=1e-12)


def test_cosine_of_vectors_that_are_zero_huge_or_not_finite() -> None:
    answers = np.array([[0, 0], [0, 0], [1e200, 1e200], [np.nan, 1], [1e-200, 0], [1, 1]])
    targets = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [2, 0], [np.inf, 1]])
    np.testing.assert_allclose(cosine.scores(answers, targets), [1, 0, 1, 0, 1, 0])


@cache
def recursive(first: str, second: str) -> int:
    """The edit distance by its definition."""
    if not first or not second:
        return len(first) + len(second)
    changed = recursive(first[1:], second[1:]) + (first[0] != second[0])
    return min(changed, 1 + recursive(first[1:], second), 1 + recursive(first, second[1:]))


@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_the_edit_distance_is_that_of_its_definition(first: str, second: str) -> None:
    assert edit_distance.distance(first, second) == recursive(first, second)


@pytest.mark.parametrize(
    ("score", "answer", "target", "expected"),
    [
        (wer.scores, "the cat sat", "the cat sat", 1.0),
        (wer.scores, "the hat", "the cat sat", 1 / 3),
        (wer.scores, ["a", "b", "c"], ["x"], -2.0),
        (wer.scores, [1, 2, 3, 4], [1, 2, 4], 2 / 3),
        (wer.scores, "", "", 1.0),
        (wer.scores, "word", "", 0.0),
        (cer.scores, "kitten", "sitting", 1 - 3 / 7),
        (cer.scores, ["a", "bc"], "a bd", 3 / 4),
        (cer.scores, [1, 2, 3], [1, 2, 4], 2 / 3),
    ],
)
def test_the_accuracy_of_texts(
    score: Callable[[list[wer.Text], list[wer.Text]], wer.Floats], answer: wer.Text, target: wer.Text, expected: float
) -> None:
    assert score([answer], [target])[0] == pytest.approx(expected)


def by_pixel(answers: Sequence[miou.ClassMap], targets: Sequence[miou.ClassMap]) -> float:
    """The mIoU by its definition, a pixel at a time."""
    pairs = [
        (a, t)
        for answer, target in zip(answers, targets, strict=True)
        for a, t in zip(answer.flat, target.flat, strict=True)
        if t != 255
    ]
    kinds = {t for _, t in pairs}
    ratios = [sum(a == t == k for a, t in pairs) / sum(k in pair for pair in pairs) for k in kinds]
    return float(np.mean(ratios))


def maps(seed: int, images: int = 5) -> tuple[list[miou.ClassMap], list[miou.ClassMap]]:
    """Targets of 4 classes with unlabelled pixels, and answers that are mostly right, some of other classes."""
    rng = np.random.default_rng(seed)
    targets = [rng.choice([0, 1, 3, 255], (6, 8)) for _ in range(images)]
    answers = [np.where(rng.random((6, 8)) < 0.7, target, rng.integers(0, 6, (6, 8))) for target in targets]
    return answers, targets


@pytest.mark.parametrize("seed", range(5))
def test_miou_is_that_of_its_definition(seed: int) -> None:
    answers, targets = maps(seed)
    assert miou.value(answers, targets) == pytest.approx(by_pixel(answers, targets))
    alone = [by_pixel([answer], [target]) for answer, target in zip(answers, targets, strict=True)]
    np.testing.assert_allclose(miou.scores(answers, targets), alone)


def test_images_are_weighted_as_if_they_occurred_so_often() -> None:
    answers, targets = maps(9)
    row = [1, 3, 2, 1, 4]
    repeated = [i for i, count in enumerate(row) for _ in range(count)]
    again = by_pixel([answers[i] for i in repeated], [targets[i] for i in repeated])
    assert miou.resampler(answers, targets)(np.array([row], float))[0] == pytest.approx(again)


def test_maps_without_a_labelled_pixel() -> None:
    blank = [np.full((2, 2), 255)]
    assert miou.scores(blank, blank).tolist() == [1]
    with pytest.raises(BadInput, match="no pixel of any class"):
        miou.value(blank, blank)
    with pytest.raises(BadInput, match="below 0"):
        miou.value(blank, [np.full((2, 2), -1)])


def test_every_task_has_a_metric() -> None:
    assert {ready.task for ready in catalog.METRICS.values()} == set(Task)
    with pytest.raises(dataclasses.FrozenInstanceError):
        catalog.METRICS["top1"].margin = 1  # type: ignore[misc]  # it is frozen


@pytest.mark.parametrize(("name", "changed"), [*product(("miou", "top1", "wer"), (False, True))])
def test_the_measure_of_an_artifact_follows_its_answers(name: str, changed: bool) -> None:
    rng = np.random.default_rng(6)
    if name == "miou":
        targets = [rng.integers(0, 3, (4, 4)) for _ in range(900)]
    elif name == "wer":
        targets = [rng.integers(0, 9, 5) for _ in range(900)]
    else:
        targets = [np.array(label) for label in rng.integers(0, 3, 900)]
    wrong = [(target + 1) % 3 if rng.random() < 0.3 else target for target in targets]
    artifact, source = wrong if changed else targets, targets
    if name == "top1":
        artifact, source = [np.eye(3)[list(answers)] for answers in (artifact, source)]  # type: ignore[assignment]
    found = catalog.measure(name, artifact, source, targets, margin=0.005)
    assert found.verdict is (Inferiority.WORSE if changed else Inferiority.NOT_WORSE)
    assert found.difference.value == pytest.approx(found.artifact - found.source)
    assert found.source == 1


def test_top5_of_five_classes_is_refused() -> None:
    with pytest.raises(BadInput, match="of 5 classes each is among the five best"):
        top5.scores(np.zeros((2, 5)), np.zeros(2, np.int64))
