"""The answers of artifacts as a metric takes them: what is cut off does not count, and outputs come in parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploytool.data import placement
from deploytool.data.batches import Batch
from deploytool.data.labels.labelled_images import LabelledImages
from deploytool.metrics import evaluator, user_metric
from deploytool.spec import Model, Preprocessing, Task, Tensor

CROPPED = Preprocessing(resize=0, crop=(8, 8))
SEGMENTER = Model("m", "m.py:m", outputs=(Tensor("logits", ("batch", 2, 8, 8)),), task=Task.SEGMENT)


def test_what_the_preprocessing_cuts_off_counts_for_nothing(tmp_path: Path) -> None:
    mask = np.ones((8, 16), np.uint8)
    mask[:, 4:12] = 0  # the centre, which the model sees
    Image.fromarray(mask).save(tmp_path / "mask.png")
    labelled = LabelledImages((tmp_path / "a.png",), (tmp_path / "mask.png",))
    chosen = evaluator.choose("miou", SEGMENTER, labelled)
    record = chosen.record()
    background = np.stack([np.ones((8, 8)), np.zeros((8, 8))])[None].astype(np.float32)
    record.add({"logits": background}, Batch((0,), {}, (8, 8), (placement.place((8, 16), CROPPED),)))
    answers = record.finish()
    assert chosen.value(answers) == 1.0
    assert answers.figures.tolist() == [1.0]


def test_a_function_of_the_user_gets_outputs_in_parts_of_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[int, ...], list[object]]] = []

    def scores(reference: str, outputs: dict[str, np.ndarray], targets: list[object]) -> np.ndarray:
        calls.append((outputs["map"].shape, list(targets)))
        return np.zeros(len(targets))

    monkeypatch.setattr(user_metric, "scores", scores)
    chosen = evaluator.choose("m.py:score", SEGMENTER, LabelledImages((Path("a.png"),) * 4, (0, 1, 2, 3)))
    record = chosen.record()
    for index, side in enumerate((4, 4, 6, 4)):
        record.add({"map": np.zeros((1, side))}, Batch((index,), {}, (side, side), ()))
    assert len(record.finish().figures) == 4
    assert calls == [((2, 4), [0, 1]), ((1, 6), [2]), ((1, 4), [3])]
