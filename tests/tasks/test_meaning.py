"""Tests of what outputs mean: maps of classes, scores, embeddings and tokens, and the task that they tell."""

from __future__ import annotations

import numpy as np
import pytest

from deploytool.errors import BadInput
from deploytool.spec import Task
from deploytool.tasks import interpret
from deploytool.tasks.segmentation import class_maps

MAP = np.array([[0, 2, 1], [2, 2, 0]])


def _scores(dtype: str = "float32") -> np.ndarray:
    return np.asarray(np.arange(3)[:, None, None] == MAP, dtype)


@pytest.mark.parametrize(
    "output",
    [
        *(_scores()[None], _scores("float16")[None], MAP, MAP[None], MAP[None, None]),
        *(MAP.astype(np.uint8)[None], MAP.astype(np.float32)[None]),
        np.where(_scores() > 0, 1.0, np.nan)[None],
    ],
)
def test_maps_of_classes_and_of_their_scores_are_maps(output: np.ndarray) -> None:
    (found,) = class_maps({"masks": output})[1]
    assert found.tolist() == MAP.tolist()
    assert found.dtype == np.int64


def test_every_image_of_a_batch_has_its_map() -> None:
    first, second = class_maps({"out": np.stack([_scores(), _scores()[:, ::-1]])})[1]
    assert first.tolist() == second[::-1].tolist() == MAP.tolist()


@pytest.mark.parametrize(
    "outputs",
    [{"a": MAP, "b": MAP}, {"a": MAP + 0.5}, {"a": MAP[None, None] + 0.5}, {"a": np.zeros(3)}],
)
def test_other_outputs_are_no_maps(outputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(BadInput, match="|".join(outputs)) as caught:
        class_maps(outputs)
    assert "--output" in caught.value.remedy


def test_scores_embeddings_and_tokens_are_taken_as_they_are() -> None:
    matrix = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, 4.0]], np.float32)
    assert interpret.class_scores({"ids": MAP, "logits": matrix}).tolist() == matrix.tolist()
    assert interpret.embeddings({"embedding": matrix}).tolist() == matrix.tolist()
    assert interpret.tokens({"tokens": MAP}).tolist() == MAP.tolist()
    assert interpret.tokens({"logits": np.eye(3, dtype=np.float16)[MAP]}).tolist() == MAP.tolist()


@pytest.mark.parametrize("meaning", [interpret.class_scores, interpret.embeddings, interpret.tokens])
def test_what_does_not_fit_is_named(meaning: object) -> None:
    with pytest.raises(BadInput, match=r"a \(2, 3, 4, 5\)") as caught:
        meaning({"a": np.zeros((2, 3, 4, 5), np.float32)})  # type: ignore[operator]
    assert "--output" in caught.value.remedy


GUESSES: dict[str, tuple[dict[str, tuple[int, ...]], Task | None]] = {
    "class scores": ({"logits": (2, 10)}, Task.CLASSIFY),
    "an embedding": ({"image_embeds": (2, 512)}, Task.EMBED),
    "a matrix without a name": ({"output": (2, 10)}, None),
    "maps": ({"logits": (2, 21, 32, 32)}, Task.SEGMENT),
    "features": ({"features": (2, 21, 32, 32)}, None),
    "tokens": ({"logits": (2, 7, 100)}, Task.TOKENS),
    "DETR": ({"logits": (2, 100, 92), "pred_boxes": (2, 100, 4)}, Task.DETECT),
    "boxes": ({"boxes": (2, 100, 4), "scores": (2, 100), "labels": (2, 100)}, Task.DETECT),
    "a head": ({"output0": (2, 84, 8400)}, None),
    "two matrices": ({"logits": (2, 10), "features": (2, 10)}, None),
}


@pytest.mark.parametrize("name", GUESSES)
def test_a_task_is_guessed_where_it_is_plain(name: str) -> None:
    shapes, task = GUESSES[name]
    outputs = {key: np.random.default_rng(0).random(shape, np.float32) for key, shape in shapes.items()}
    assert interpret.guess(outputs) is task
