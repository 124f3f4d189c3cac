"""Tests of decoding: the outputs of detectors become the objects that they were made from."""

from __future__ import annotations

import numpy as np
import pytest

from deploytool.errors import BadInput
from deploytool.spec import Decoding
from deploytool.tasks import layouts
from deploytool.tasks.detections import decode
from deploytool.tasks.layouts import Layout

SIZE = (40, 80)  # height and width
BOXES = np.array([[8.0, 4.0, 24.0, 20.0], [40.0, 8.0, 72.0, 36.0], [0.0, 0.0, 16.0, 16.0]])
SCORES, CLASSES = np.array([0.9, 0.7, 0.2]), np.array([2, 0, 1])
CENTRES = np.array([[16.0, 12.0, 16.0, 16.0], [56.0, 22.0, 32.0, 28.0], [8.0, 8.0, 16.0, 16.0]])
ONE_HOT = np.array([[0.0, 0.0, 0.9], [0.7, 0.0, 0.0], [0.0, 0.2, 0.0]])

Outputs = dict[str, np.ndarray]


def _logit(share: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(share.clip(1e-6) / (1 - share.clip(1e-6))))


def _softmax_inputs() -> np.ndarray:
    """Logarithms of the scores, with the rest of each row as background, last."""
    shares = np.concatenate([ONE_HOT, 1 - ONE_HOT.sum(1, keepdims=True)], 1)
    return np.asarray(np.log(shares.clip(1e-6)) + 3.0)


CASES: dict[str, tuple[Outputs, Decoding, Layout]] = {
    "rows": ({"boxes": BOXES, "scores": SCORES, "labels": CLASSES}, Decoding(), Layout.ROWS),
    "rows of unknown names": ({"a": BOXES, "b": SCORES, "c": CLASSES}, Decoding(), Layout.ROWS),
    "rows in xywh": (
        {"boxes": np.concatenate([BOXES[:, :2], BOXES[:, 2:] - BOXES[:, :2]], 1), "scores": SCORES, "classes": CLASSES},
        Decoding(boxes="xywh"),
        Layout.ROWS,
    ),
    "rows with a background first": (
        {"boxes": BOXES, "scores": SCORES, "labels": CLASSES + 1.0},
        Decoding(background="first"),
        Layout.ROWS,
    ),
    "scores of every class": ({"boxes": BOXES, "scores": ONE_HOT}, Decoding(), Layout.PER_CLASS),
    "logits with a background first": (
        {"boxes": BOXES, "logits": _logit(np.insert(ONE_HOT, 0, 0.99, axis=1))},
        Decoding(activation="sigmoid", background="first"),
        Layout.PER_CLASS,
    ),
    "DETR": (
        {"logits": _softmax_inputs(), "pred_boxes": CENTRES / [80, 40, 80, 40]},
        Decoding("cxcywh", normalised=True, activation="softmax", background="last"),
        Layout.QUERIES,
    ),
    "joined": ({"output0": np.column_stack([BOXES, SCORES, CLASSES])}, Decoding(), Layout.JOINED),
    "channels first": (
        {"output0": np.concatenate([np.concatenate([CENTRES, ONE_HOT], 1), np.zeros((9, 7))]).T},
        Decoding("cxcywh"),
        Layout.CHANNELS_FIRST,
    ),
    "channels last": (
        {"output": np.concatenate([np.column_stack([CENTRES, np.full(3, 0.5), 2 * ONE_HOT]), np.zeros((9, 8))])},
        Decoding("cxcywh"),
        Layout.CHANNELS_LAST,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_layout_becomes_the_objects_it_was_made_from(name: str) -> None:
    outputs, how, layout = CASES[name]
    batch = {key: np.stack([array, array]) for key, array in outputs.items()}
    batch = {key: array.astype(np.float32) if array.dtype.kind == "f" else array for key, array in batch.items()}
    assert layouts.recognise(batch).layout is layout
    for found in decode(batch, how, SIZE):
        np.testing.assert_allclose(found.boxes, BOXES, atol=1e-4)
        np.testing.assert_allclose(found.scores, SCORES, atol=1e-4)
        assert found.classes.tolist() == CLASSES.tolist()
        assert found.classes.dtype == np.int64


def _rows(**changes: np.ndarray) -> Outputs:
    values = {"boxes": BOXES, "scores": SCORES, "labels": CLASSES} | changes
    return {name: array[None] for name, array in values.items()}


def test_the_threshold_and_the_number_of_objects_limit_them() -> None:
    assert len(decode(_rows(), Decoding(threshold=0.7), SIZE)[0].scores) == 2
    assert len(decode(_rows(), Decoding(threshold=0.95), SIZE)[0].scores) == 0
    (found,) = decode(_rows(scores=SCORES[::-1]), Decoding(top=1), SIZE)
    assert found.boxes.tolist() == [BOXES[2].tolist()]


def test_overlapping_boxes_of_one_class_are_suppressed() -> None:
    near = np.stack([BOXES[0], BOXES[0] + 1, BOXES[0] + 2])
    assert len(decode(_rows(boxes=near, labels=np.zeros(3)), Decoding(nms=0.5), SIZE)[0].scores) == 1
    assert len(decode(_rows(boxes=near, labels=np.array([0, 1, 0])), Decoding(nms=0.5), SIZE)[0].scores) == 2
    assert len(decode(_rows(boxes=near, labels=np.zeros(3)), Decoding(), SIZE)[0].scores) == 3


def test_values_that_are_not_finite_and_padding_are_no_objects() -> None:
    boxes, scores = BOXES.copy(), SCORES.copy()
    boxes[0, 2], scores[1] = np.inf, np.nan
    (found,) = decode(_rows(boxes=boxes, scores=scores), Decoding(), SIZE)
    assert found.classes.tolist() == [1]
    assert decode(_rows(labels=np.array([-1, 0, 1])), Decoding(), SIZE)[0].classes.tolist() == [0, 1]


def test_no_boxes_and_no_images_are_no_objects() -> None:
    empty = {"boxes": np.zeros((2, 0, 4)), "scores": np.zeros((2, 0)), "labels": np.zeros((2, 0))}
    assert [found.boxes.shape for found in decode(empty, Decoding(nms=0.5), SIZE)] == [(0, 4)] * 2
    logits = {"pred_boxes": np.zeros((1, 0, 4)), "logits": np.zeros((1, 0, 3))}
    assert len(decode(logits, layouts.usual_decoding(logits), SIZE)[0].scores) == 0
    assert decode({name: array[:0] for name, array in empty.items()}, Decoding(), SIZE) == []


def test_equal_scores_are_in_the_order_of_classes_and_rows() -> None:
    (found,) = decode(_rows(scores=np.full(3, 0.5), labels=np.array([1, 0, 0])), Decoding(), SIZE)
    assert found.boxes.tolist() == BOXES[[1, 2, 0]].tolist()


@pytest.mark.parametrize(
    "outputs",
    [
        {"logits": np.zeros((2, 10))},
        {"boxes": np.zeros((2, 5, 4)), "scores": np.zeros((2, 6)), "labels": np.zeros((2, 5))},
        {"boxes": np.zeros((2, 5, 4))},
        {"a": np.zeros((2, 5, 4)), "b": np.zeros((2, 5)), "c": np.zeros((2, 5))},
        {},
    ],
)
def test_other_outputs_are_named_with_what_would_help(outputs: Outputs) -> None:
    with pytest.raises(BadInput) as caught:
        decode(outputs, Decoding(), SIZE)
    assert all(f"{name} ({', '.join(map(str, array.shape))})" in str(caught.value) for name, array in outputs.items())
    assert "--output" in caught.value.remedy
    assert "boxes (B, N, 4)" in caught.value.remedy


@pytest.mark.parametrize("how", [Decoding(boxes="corners"), Decoding(activation="relu"), Decoding(background="middle")])
def test_an_unknown_decoding_names_the_known_ones(how: Decoding) -> None:
    with pytest.raises(BadInput) as caught:
        decode({"boxes": BOXES[None], "scores": ONE_HOT[None]}, how, SIZE)
    assert caught.value.remedy.startswith("choose one of ")
