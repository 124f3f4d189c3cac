"""Mean average precision, in agreement with pycocotools, and its interval."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from deploytool.errors import BadInput
from deploytool.metrics import average_precision, catalog
from deploytool.results.measure import Inferiority
from deploytool.tasks.annotations import Boxes
from deploytool.tasks.detections import Detections
from tests.metrics import coco

needs_pycocotools = pytest.mark.skipif(
    importlib.util.find_spec("pycocotools") is None, reason="pycocotools is not installed"
)
BOX = np.array([[10.0, 10.0, 20.0, 20.0]])


def found(boxes: average_precision.Floats, *scores: float) -> Detections:
    return Detections(boxes, np.array(scores), np.zeros(len(scores), np.int64))


def marked(boxes: average_precision.Floats, crowd: bool = False) -> Boxes:
    return Boxes(boxes, np.zeros(len(boxes), np.int64), np.full(len(boxes), crowd))


NOTHING, EMPTY = found(np.zeros((0, 4))), marked(np.zeros((0, 4)))


@needs_pycocotools
@pytest.mark.parametrize("seed", range(40))
def test_it_equals_that_of_pycocotools(seed: int) -> None:
    assert coco.difference(seed) < 1e-6


@needs_pycocotools
def test_the_made_up_sets_have_every_difficulty() -> None:
    sets = [coco.made_up(seed) for seed in range(40)]
    pairs = [pair for answers, targets in sets for pair in zip(answers, targets, strict=True)]
    assert any(target.crowd.any() for _, target in pairs)
    assert any(not len(target.classes) for _, target in pairs)
    assert any(not len(answer.classes) for answer, _ in pairs)
    assert any(len(np.unique(answer.scores)) < len(answer.scores) for answer, _ in pairs)
    assert any(np.bincount(answer.classes, minlength=1).max() > 100 for answer, _ in pairs)
    assert any(set(answer.classes) - set(target.classes) for answer, target in pairs)


def test_a_box_of_iou_080_is_right_at_seven_of_ten_thresholds() -> None:
    shorter = np.array([[10.0, 10.0, 20.0, 18.0]])
    assert average_precision.value([found(shorter, 0.9)], [marked(BOX)]) == pytest.approx(0.7)


def test_a_second_box_on_the_same_object_is_wrong() -> None:
    two = found(np.concatenate((BOX + 100, BOX)), 0.9, 0.8)
    assert average_precision.value([two], [marked(BOX)]) == pytest.approx(0.5)
    twice = found(np.concatenate((BOX, BOX)), 0.9, 0.8)
    both = marked(np.concatenate((BOX, BOX + 100)))
    assert average_precision.value([twice], [both]) == pytest.approx(51 / 101)  # of recall 0 to 0.5


def test_a_detection_in_a_crowd_is_no_error() -> None:
    target = Boxes(np.concatenate((BOX, BOX * 4)), np.zeros(2, np.int64), np.array([False, True]))
    inside = found(np.concatenate((BOX * 4, BOX)), 0.9, 0.8)
    assert average_precision.value([inside], [target]) == 1


def test_images_are_weighted_as_if_they_occurred_so_often() -> None:
    rng = np.random.default_rng(4)
    pairs = [coco.image(rng, 3, whole=False, many=False) for _ in range(12)]
    answers, targets = [list(part) for part in zip(*pairs, strict=True)]
    counts = rng.integers(1, 4, (5, 12))
    weighted = average_precision.resampler(answers, targets)(counts.astype(float))
    for row, value in zip(counts, weighted, strict=True):
        # equal scores take the order of the images, and so do the repeated ones
        repeated = np.repeat(np.arange(12), row)
        again = average_precision.value([answers[i] for i in repeated], [targets[i] for i in repeated])
        assert value == pytest.approx(again, abs=0.03)


def test_the_scale_of_the_weights_does_not_matter() -> None:
    answers, targets = coco.made_up(3)
    weights = np.random.default_rng(0).standard_exponential((20, len(targets)))
    of = average_precision.resampler(answers, targets)
    np.testing.assert_allclose(of(weights), of(7.3 * weights), rtol=1e-9)


def test_everything_found_has_a_map_of_1_with_any_weights() -> None:
    rng = np.random.default_rng(1)
    targets = [marked(coco.boxes(rng, 3, whole=False)) for _ in range(30)]
    answers = [found(target.boxes, *rng.random(3)) for target in targets]
    weights = rng.standard_exponential((200, 30))
    np.testing.assert_allclose(average_precision.resampler(answers, targets)(weights), 1, rtol=1e-12)


def test_the_scores_of_images() -> None:
    answers = [found(BOX, 0.9), NOTHING, found(BOX, 0.9), NOTHING]
    targets = [marked(BOX), EMPTY, EMPTY, marked(BOX)]
    assert average_precision.scores(answers, targets).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("target", [EMPTY, marked(BOX, crowd=True)])
def test_labels_without_an_object_are_an_error(target: Boxes) -> None:
    with pytest.raises(BadInput, match="no object"):
        average_precision.value([found(BOX, 0.9)], [target])


def test_an_artifact_that_misses_a_third_is_worse_and_an_equal_one_is_not() -> None:
    rng = np.random.default_rng(2)
    targets = [marked(coco.boxes(rng, 2, whole=False)) for _ in range(200)]
    source = [found(target.boxes, *rng.random(2)) for target in targets]
    poor = [answer if rng.random() > 1 / 3 else NOTHING for answer in source]
    worse = catalog.measure("map", poor, source, targets, margin=0.01)
    assert worse.verdict is Inferiority.WORSE
    assert worse.difference.value == pytest.approx(worse.artifact - worse.source)
    assert worse.difference.low < worse.difference.value < worse.difference.high
    assert catalog.measure("map", source, source, targets, margin=0.03).verdict is Inferiority.NOT_WORSE
    few = catalog.measure("map", source[:12], source[:12], targets[:12], margin=0.005)
    assert few.verdict is Inferiority.NOT_DECIDED
