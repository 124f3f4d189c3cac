from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tasks import measures, scenes
from tests.tasks.scenes import CATEGORIES, DETECTED, IGNORED, SEGMENTED, Split


def test_the_same_seed_draws_the_same_scene_and_another_one_another() -> None:
    first, again, other = (scenes.draw(Split.TEST, DETECTED, seed) for seed in (3, 3, 4))
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert np.array_equal(first.boxes, again.boxes)
    assert first.pixels.tobytes() != other.pixels.tobytes()


def test_training_and_test_scenes_share_neither_photographs_nor_digits() -> None:
    assert not set(Split.TRAIN.value) & set(Split.TEST.value)
    (train, _), (test, _) = scenes._digits(Split.TRAIN), scenes._digits(Split.TEST)
    assert len(train) + len(test) == 1797
    assert not {digit.tobytes() for digit in train} & {digit.tobytes() for digit in test}


def test_a_box_holds_a_digit_and_the_mask_has_its_class_there() -> None:
    for scene in scenes.scenes(Split.TEST, SEGMENTED, 20):
        assert len(scene.boxes)
        for (x1, y1, x2, y2), digit in zip(scene.boxes.astype(int), scene.digits, strict=True):
            inside = scene.mask[y1:y2, x1:x2] == 1 + SEGMENTED.digits.index(digit)
            assert inside.any()
        outside = np.ones(scene.mask.shape, bool)
        for x1, y1, x2, y2 in scene.boxes.astype(int):
            outside[y1:y2, x1:x2] = False
        assert not scene.mask[outside].any()


def test_the_detection_set_is_coco_with_pictures_of_differing_sizes(tmp_path: Path) -> None:
    scenes.write_detection(tmp_path, 12)
    labels = json.loads((tmp_path / "annotations.json").read_text())
    assert [category["id"] for category in labels["categories"]] == list(CATEGORIES)
    sizes = {(picture["width"], picture["height"]) for picture in labels["images"]}
    assert len(sizes) > 6
    pictures = {picture["id"]: picture for picture in labels["images"]}
    for annotation in labels["annotations"]:
        picture, (left, top, width, height) = pictures[annotation["image_id"]], annotation["bbox"]
        with Image.open(tmp_path / "images" / picture["file_name"]) as image:
            assert image.size == (picture["width"], picture["height"])
        assert left >= 0
        assert top >= 0
        assert left + width <= picture["width"]
        assert top + height <= picture["height"]
        assert annotation["area"] == width * height


def test_the_segmentation_set_has_a_mask_of_the_size_of_every_picture(tmp_path: Path) -> None:
    scenes.write_segmentation(tmp_path, 6)
    masks = sorted((tmp_path / "masks").iterdir())
    assert [path.name for path in masks] == [path.name for path in sorted((tmp_path / "images").iterdir())]
    for path in masks:
        with Image.open(path) as mask, Image.open(tmp_path / "images" / path.name) as image:
            assert mask.size == image.size
            assert set(np.unique(np.asarray(mask))) <= {*range(1 + len(SEGMENTED.digits)), IGNORED}


def test_a_letterbox_keeps_the_shape_and_says_where_a_point_goes() -> None:
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[20:, 50:] = 255
    fitted, (scale_x, scale_y, left, top) = scenes.letterbox(picture, (128, 160), 114, Image.Resampling.NEAREST)
    assert fitted.shape == (128, 160, 3)
    assert (scale_x, scale_y, left, top) == (1.6, 1.6, 0, 32)
    assert (fitted[:32] == 114).all()
    assert fitted[int(scale_y * 20 + top), int(scale_x * 50 + left), 0] == 255
    assert fitted[int(scale_y * 20 + top) - 1, int(scale_x * 50 + left), 0] == 0


SQUARE = np.array([[0, 0, 10, 10]], np.float64)


def test_the_average_precision_of_a_hit_after_a_miss_is_one_half() -> None:
    found = (np.array([[50, 50, 60, 60], [0, 0, 10, 10]], np.float64), np.array([0.9, 0.8]), np.array([4, 4]))
    assert measures.mean_average_precision([found], [(SQUARE, np.array([4]))]) == pytest.approx(0.5)
    better = (found[0], np.array([0.7, 0.8]), found[2])
    assert measures.mean_average_precision([better], [(SQUARE, np.array([4]))]) == 1.0


def test_a_second_box_on_the_same_object_and_one_of_another_class_are_no_hits() -> None:
    twice = (np.repeat(SQUARE, 2, 0), np.array([0.9, 0.8]), np.array([4, 4]))
    truth = (np.concatenate([SQUARE, SQUARE + 100]), np.array([4, 4]))
    assert measures.mean_average_precision([twice], [truth]) == pytest.approx(51 / 101)  # recalls up to 0.5
    other = (SQUARE, np.array([0.9]), np.array([3]))
    assert measures.mean_average_precision([other], [(SQUARE, np.array([4]))]) == 0.0


def test_suppression_leaves_the_better_of_two_boxes_of_one_class() -> None:
    found = (np.concatenate([SQUARE, SQUARE + 1, SQUARE + 1]), np.array([0.5, 0.9, 0.4]), np.array([1, 1, 2]))
    boxes, scores, classes = measures.suppress(found, 0.5, 0.05, 10)
    assert scores.tolist() == [0.9, 0.4]
    assert classes.tolist() == [1, 2]
    assert boxes[0, 0] == 1


def test_the_mean_iou_leaves_out_ignored_pixels() -> None:
    mask = np.array([[0, 0, 1, IGNORED]])
    assert measures.mean_iou([np.array([[0, 1, 1, 0]])], [mask], 2, IGNORED) == 0.5
    assert measures.mean_iou([np.array([[0, 0, 1, 1]])], [mask], 2, IGNORED) == 1.0
