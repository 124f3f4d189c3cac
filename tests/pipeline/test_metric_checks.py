"""What the metric could not use is refused as soon as there are golden answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploytool.errors import BadInput
from deploytool.pipeline import metric_checks
from deploytool.results.artifact import Artifact, Kind
from deploytool.spec import Job, Model, Options, Preprocessing, Source, Stage, Task, Tensor

SIDE = 16
SEEN = Preprocessing(resize=SIDE, crop=0)  # the longer side stays as it is


@pytest.fixture
def sample(tmp_path: Path) -> Artifact:
    """Golden data of a classifier of four classes, with its answers alone."""
    answers: dict[str, Any] = {"output.logits": np.random.default_rng(0).random((5, 4), np.float32)}
    np.savez(tmp_path / "golden.npz", **answers)
    return Artifact(Kind.GOLDEN, tmp_path / "golden.npz", "", "", Stage.GOLDEN, {}, 0.0, True)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(
            tmp_path / "images" / name
        )
    (tmp_path / "labels.csv").write_text("a.png,0\nb.png,3\nc.png,1\n")
    return tmp_path / "labels.csv"


def job(task: Task | None, metric: str = "", labels: Path | None = None) -> Job:
    tensors = (Tensor("input", ("batch", 3, SIDE, SIDE)),), (Tensor("logits", ("batch", 4)),)
    model = Model("net", "m.py:m", {}, *tensors, preprocessing=SEEN, task=task)
    options = Options(
        metric=Source(metric, "") if metric else None,
        data=Source(str(labels.parent / "images"), "") if labels else None,
        labels=Source(str(labels), "") if labels else None,
    )
    return Job(model, options)


@pytest.mark.parametrize("task", [Task.DETECT, Task.SEGMENT, Task.TOKENS])
def test_outputs_that_the_device_could_not_show_are_refused_without_a_metric(task: Task, sample: Artifact) -> None:
    with pytest.raises(BadInput, match=f"the task is {task}, but "):
        metric_checks.check(job(task), sample)


@pytest.mark.parametrize("task", [None, Task.CLASSIFY, Task.EMBED])
def test_outputs_that_are_shown_as_they_are_pass(task: Task | None, sample: Artifact) -> None:
    metric_checks.check(job(task), sample)


def test_a_function_of_the_user_may_understand_other_outputs(sample: Artifact, labels: Path) -> None:
    for metric in ("m.py:score", "top1"):
        metric_checks.check(job(Task.CLASSIFY, metric, labels), sample)
    tokens = job(Task.TOKENS, "m.py:score", labels)
    metric_checks.check(tokens, sample)
    with pytest.raises(BadInput, match="the task is tokens"):
        metric_checks.check(job(Task.TOKENS, "wer", labels), sample)


def test_a_class_beyond_the_scores_is_refused(sample: Artifact, labels: Path) -> None:
    labels.write_text("a.png,0\nb.png,4\n")
    with pytest.raises(BadInput, match="label 4 is none of the model's 4 classes"):
        metric_checks.check(job(Task.CLASSIFY, "top1", labels), sample)


@pytest.mark.parametrize("fault", ["cut off", "too long"])
def test_every_picture_is_read_and_fits(fault: str, sample: Artifact, labels: Path) -> None:
    picture = labels.parent / "images" / "c.png"
    if fault == "cut off":
        picture.write_bytes(picture.read_bytes()[:-200])  # its header is whole
        problem = "c.png cannot be read as a picture"
    else:
        Image.new("RGB", (2 * SIDE, SIDE)).save(picture)
        problem = f"c.png becomes {SIDE} × {2 * SIDE}"
    with pytest.raises(BadInput, match=problem):
        metric_checks.check(job(Task.CLASSIFY, "m.py:score", labels), sample)
