"""Tests of boxes: formats, overlap and suppression."""

from __future__ import annotations

import numpy as np
import pytest

from deploytool.errors import BadInput
from deploytool.tasks import boxes


def _pixels(box: np.ndarray) -> set[tuple[int, int]]:
    return {(x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3]))}


def _drawn(count: int, seed: int) -> np.ndarray:
    first = np.random.default_rng(seed).integers(0, 12, (count, 2))
    return np.concatenate([first, first + np.random.default_rng(seed + 1).integers(0, 9, (count, 2))], 1).astype(float)


def test_the_overlap_is_that_of_counted_pixels() -> None:
    first, second = _drawn(30, 0), _drawn(20, 5)
    counted = [[len(_pixels(a) & _pixels(b)) / max(len(_pixels(a) | _pixels(b)), 1) for b in second] for a in first]
    np.testing.assert_allclose(boxes.iou(first, second), counted, atol=1e-12)
    assert (np.array(counted) > 0).mean() > 0.1


def test_boxes_with_negative_sides_overlap_nothing() -> None:
    assert boxes.iou(np.array([[4.0, 4.0, 2.0, 2.0]]), np.array([[0.0, 0.0, 9.0, 9.0]])).tolist() == [[0.0]]
    assert boxes.iou(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)


@pytest.mark.parametrize(("form", "values"), [("xyxy", [2, 3, 8, 7]), ("xywh", [2, 3, 6, 4]), ("cxcywh", [5, 5, 6, 4])])
def test_every_format_becomes_corners(form: str, values: list[int]) -> None:
    assert boxes.corners(np.array([values], np.float16), form).tolist() == [[2, 3, 8, 7]]


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(BadInput, match="'yxyx' is no format") as caught:
        boxes.corners(np.zeros((1, 4)), "yxyx")
    assert "xyxy, xywh, cxcywh" in caught.value.remedy


@pytest.mark.parametrize("seed", range(4))
def test_suppression_keeps_what_a_plain_loop_keeps(seed: int) -> None:
    drawn, found = np.random.default_rng(seed), _drawn(40, seed)
    scores, classes = drawn.integers(0, 12, 40) / 12, drawn.integers(0, 3, 40)
    kept: list[int] = []
    for index in sorted(range(40), key=lambda row: (-scores[row], classes[row], row)):
        rivals = [row for row in kept if classes[row] == classes[index]]
        shared = [len(_pixels(found[row]) & _pixels(found[index])) for row in rivals]
        union = [len(_pixels(found[row]) | _pixels(found[index])) for row in rivals]
        if all(part <= 0.4 * whole for part, whole in zip(shared, union, strict=True)):
            kept.append(index)
    assert boxes.nms(found, scores, classes, 0.4, 100).tolist() == kept
    assert 5 < len(kept) < 40
    assert boxes.nms(found, scores, classes, 0.4, 5).tolist() == kept[:5]
