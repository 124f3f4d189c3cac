"""Labels that do not fit the outputs of a model are refused with both numbers, before anything is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploytool.data.golden import Arrays
from deploytool.data.labels.labelled_images import LabelledImages, Target
from deploytool.errors import BadInput
from deploytool.metrics import label_checks
from deploytool.spec import Decoding, Model, Task, Tensor
from deploytool.tasks.annotations import Boxes
from deploytool.tasks.detections import Detections

CASES = 3
ONE = Boxes(np.array([[0.0, 0.0, 4.0, 4.0]]), np.array([1]), np.array([False]))
NONE = Boxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_))
CROWD = Boxes(ONE.boxes, ONE.classes, np.array([True]))
HEADS: dict[str, dict[str, tuple[int, ...]]] = {  # of five classes without a background
    "per class": {"boxes": (20, 4), "scores": (20, 5)},
    "channels first": {"output0": (9, 84)},
    "channels last": {"output0": (84, 10)},
}


def labelled(*targets: Target, classes: int = 0) -> LabelledImages:
    names = tuple(f"class {index}" for index in range(classes))
    return LabelledImages((Path("a.png"),) * len(targets), targets, names)


def arrays(shapes: dict[str, tuple[int, ...]]) -> Arrays:
    rng = np.random.default_rng(0)
    return {name: rng.random((CASES, *shape), np.float32) for name, shape in shapes.items()}


def model(task: Task, decoding: Decoding | None = None) -> Model:
    return Model("net", "m.py:m", task=task, decoding=decoding or Decoding())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("background", "objects"), [("none", 5), ("first", 4), ("last", 4)])
def test_the_classes_of_a_detector_are_counted_by_its_scores(head: str, background: str, objects: int) -> None:
    detector = model(Task.DETECT, Decoding(background=background))
    label_checks.check("map", detector, labelled(ONE, NONE, classes=objects), arrays(HEADS[head]))
    for named in (objects - 1, objects + 1):
        with pytest.raises(BadInput) as refused:
            label_checks.check("map", detector, labelled(ONE, classes=named), arrays(HEADS[head]))
        assert f"the labels name {named} classes, and net has scores of {objects}" in str(refused.value)
        assert "--classes FILE" in refused.value.remedy
        assert "--decode background" in refused.value.remedy


@pytest.mark.parametrize("named", [2, 90])
def test_the_classes_of_selected_rows_cannot_be_counted_and_have_a_remark(named: int) -> None:
    tensors = (
        Tensor("boxes", ("batch", 20, 4)),
        Tensor("scores", ("batch", 20)),
        Tensor("labels", ("batch", 20), "int64"),
    )
    detector = Model("net", "m.py:m", outputs=tensors, task=Task.DETECT)
    outputs = {**arrays({"boxes": (20, 4), "scores": (20,)}), "labels": np.full((CASES, 20), 7)}
    label_checks.check("map", detector, labelled(ONE, classes=named), outputs)
    answers = [Detections(np.zeros((1, 4)), np.ones(1), np.array([index])) for index in (0, 7)]
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    (remark,) = label_checks.class_remarks(detector, labelled(ONE, classes=named), [*answers, nothing])
    assert ("finds objects of the class 7, and the labels name 2 classes" in remark) == (named == 2)
    assert f"{named} " in remark
    for shape in (("batch", 9, 84), ("batch", "rows", 85)):
        head = Model("net", "m.py:m", outputs=(Tensor("output0", shape),), task=Task.DETECT)
        assert label_checks.class_remarks(head, labelled(ONE, classes=named), answers) == []


def test_boxes_that_mark_no_object_are_refused_and_other_labels_are_not_boxes() -> None:
    for targets in ((NONE,), (NONE, CROWD)):
        with pytest.raises(BadInput, match="the labels have no object"):
            label_checks.check_objects(labelled(*targets))
    label_checks.check_objects(labelled(NONE, ONE))
    label_checks.check_objects(labelled(3, 4))


@pytest.mark.parametrize(
    ("metric", "targets", "classes", "problem"),
    [
        ("top1", (0, 9), 10, None),
        ("top1", (0, 9), 0, None),
        ("top1", (0, 10), 0, "label 10 is none of the model's 10 classes"),
        ("top1", (0, 1), 2, "the labels name 2 classes, and net has 10 scores"),
    ],
)
def test_classes_are_counted_by_the_scores(
    metric: str, targets: tuple[int, ...], classes: int, problem: str | None
) -> None:
    outputs = arrays({"logits": (10,)})
    if problem is None:
        label_checks.check(metric, model(Task.CLASSIFY), labelled(*targets, classes=classes), outputs)
        return
    with pytest.raises(BadInput) as refused:
        label_checks.check(metric, model(Task.CLASSIFY), labelled(*targets, classes=classes), outputs)
    assert str(refused.value) == problem


def test_five_classes_have_no_top5() -> None:
    with pytest.raises(BadInput, match="of 5 classes each is among the five best"):
        label_checks.check("top5", model(Task.CLASSIFY), labelled(0), arrays({"logits": (5,)}))


def test_masks_have_a_class_of_the_scores_and_mark_something(tmp_path: Path) -> None:
    def mask(value: int) -> Path:
        Image.new("L", (4, 4), value).save(tmp_path / f"{value}.png")
        return tmp_path / f"{value}.png"

    segmenter, scores = model(Task.SEGMENT), arrays({"logits": (3, 4, 4)})
    label_checks.check("miou", segmenter, labelled(mask(2), mask(255)), scores)
    with pytest.raises(BadInput, match=r"3.png has the class 3, and the model 3 classes"):
        label_checks.check("miou", segmenter, labelled(mask(2), mask(3)), scores)
    with pytest.raises(BadInput, match="no pixel of any class"):
        label_checks.check("miou", segmenter, labelled(mask(255)), scores)
    indices = {"classes": np.zeros((CASES, 4, 4), np.int64)}
    label_checks.check("miou", segmenter, labelled(mask(200)), indices)  # a map of classes does not tell their number


def test_outputs_of_another_task_are_refused_first() -> None:
    with pytest.raises(BadInput, match=r"the task is detect, but the outputs logits \(3, 10\) are no boxes"):
        label_checks.check("map", model(Task.DETECT), labelled(ONE, classes=10), arrays({"logits": (10,)}))
