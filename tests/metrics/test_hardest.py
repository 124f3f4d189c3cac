"""The images on which artifacts differ most: which they are, and how they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from deploytool.metrics import hardest
from deploytool.metrics.evaluator import Answers
from deploytool.spec import Model, Task
from deploytool.tasks.detections import Detections


def answers(*figures: float) -> Answers:
    return Answers(None, np.array(figures))


def test_each_image_stands_once_with_its_largest_difference() -> None:
    source = answers(1.0, 1.0, 1.0, 1.0)
    first = hardest.largest([], "export", answers(1.0, 0.5, 0.9, 1.0), source)
    both = hardest.largest(first, "fp16", answers(1.0, 0.8, 0.2, 1.1), source)
    assert [(each.index, each.artifact, each.figure) for each in both] == [
        (2, "fp16", 0.2),
        (1, "export", 0.5),
        (3, "fp16", 1.1),
    ]
    many = hardest.largest([], "export", answers(*np.linspace(0, 1, 50)), answers(*np.ones(50)))
    assert [each.index for each in many] == list(range(6))


def test_the_source_is_on_the_left_and_the_artifact_on_the_right(tmp_path: Path) -> None:
    Image.new("RGB", (400, 300), "grey").save(tmp_path / "a.png")
    box = Detections(np.array([[50.0, 60.0, 300.0, 200.0]]), np.array([0.9]), np.array([1]))
    none = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    differences = [hardest.Difference(0, "fp16", 1.0, 0.0, box, none)]
    model = Model("m", "m.py:m", task=Task.DETECT, classes=("cat", "dog"))
    (written,) = hardest.write(tmp_path, differences, [[tmp_path / "a.png"]], model)
    assert (written.image, written.artifact, written.score, written.source) == ("a.png", "fp16", 1.0, 0.0)
    with Image.open(tmp_path / written.picture) as opened:
        drawn = np.array(opened).astype(int)
    left, right = drawn[:, :400], drawn[:, -400:]
    assert (left == 128).all()
    assert (right != 128).any()


def test_an_answer_that_cannot_be_drawn_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1000), "grey").save(tmp_path / "a.png")
    differences = [hardest.Difference(0, "fp16", 1.0, 0.0, None, None)]
    (written,) = hardest.write(tmp_path, differences, [[tmp_path / "a.png"]], Model("m", "m.py:m"))
    with Image.open(tmp_path / written.picture) as opened:
        assert opened.size == (2 * 480 + 8, 240)


def test_the_images_of_further_inputs_are_on_the_right(tmp_path: Path) -> None:
    for name, size, colour in (("left", (40, 30), "grey"), ("right", (20, 50), "black")):
        Image.new("RGB", size, colour).save(tmp_path / f"{name}.png")
    differences = [hardest.Difference(0, "fp16", 1.0, 0.0, None, None)]
    items = [[tmp_path / "left.png", tmp_path / "right.png"]]
    (written,) = hardest.write(tmp_path, differences, items, Model("m", "m.py:m"))
    assert written.image == "left.png"
    with Image.open(tmp_path / written.picture) as opened:
        drawn = np.array(opened)[..., 0]
    assert drawn.shape == (50, 40 + 8 + 40 + 8 + 20)
    assert [set(drawn[:30, start : start + 40].ravel()) for start in (0, 48)] == [{128}, {128}]
    assert (drawn[:, 96:] == 0).all()
    assert (drawn[30:, :96] == 255).all()
