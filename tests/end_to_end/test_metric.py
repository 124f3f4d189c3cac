"""The user's metric from the command line to the report: the verdicts, the exit codes, and where they stand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, Command

MODEL = (f"{ROOT / 'tests' / 'tiny.py'}:tiny", "--input", "3x32x32", "--quick", "--mean", "0", "--std", "1")
IMAGES = 24
METRICS = """
import numpy as np

def always(outputs, targets):
    return np.ones(len(targets))

def exact(outputs, targets):
    "1 unless the output of an image has FP16 numbers only."
    values = outputs["logits"]
    return (values != values.astype(np.float16)).any(axis=1)

def broken(outputs, targets):
    raise KeyError("boxes")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in two classes, and a file of metrics."""
    made = tmp_path_factory.mktemp("metric")
    rng = np.random.default_rng(0)
    for index in range(IMAGES):
        path = made / "images" / ("cat" if index % 2 else "dog") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)).save(path)
    (made / "metrics.py").write_text(METRICS)
    return made


def measures(home: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((home / "validate" / "report.json").read_text())["measures"]
    return found


def test_a_metric_is_judged_for_every_artifact(folder: Path, deploytool: Command) -> None:
    words = ("--data", folder / "images", "--metric", f"{folder / 'metrics.py'}:always", "--out", folder / "run")
    done = deploytool("export", *MODEL, *map(str, words), "--junit", str(folder / "junit.xml"))
    assert done.returncode == 0, done.stderr
    found = measures(folder / "run")
    stages = [artifact["stage"] for artifact in found["artifacts"]]
    assert stages == ["torchscript", "export", "simplify", "rewrite", "fp16", "fp16"]
    for artifact in found["artifacts"]:
        measure = artifact["measure"]
        assert (measure["artifact"], measure["source"], measure["images"]) == (1, 1, IMAGES)
        assert measure["verdict"] == "not decided"  # 24 images without a difference prove nothing about 0.5 points
        assert measure["more"] > 500
    lines = [line for line in done.stdout.splitlines() if line.startswith("Not verified here:")]
    (line,) = [line for line in lines if "by always" in line]  # the figures of all artifacts are equal
    assert line.startswith("Not verified here: torchscript, export, simplify, rewrite, fp16")
    assert " and fp16 in FP16 arithmetic by always: not decided: about 740 more images needed" in line
    page = (folder / "run" / "report.html").read_text()
    assert "Each artifact against the source" in page
    cases = Xml.parse(folder / "junit.xml").getroot().iter("testcase")
    of_metric = [case for case in cases if case.attrib["classname"].endswith(".metric")]
    assert len(of_metric) == len(stages)
    assert all(case.find("skipped") is not None for case in of_metric)
    again = deploytool("export", *MODEL, *map(str, words))
    assert "metric    kept" in again.stdout


def test_a_margin_that_the_images_cannot_decide_ends_with_6(folder: Path, deploytool: Command) -> None:
    words = ("--data", folder / "images", "--metric", f"{folder / 'metrics.py'}:always", "--out", folder / "run")
    done = deploytool("export", *MODEL, *map(str, words), "--max-drop", "0.5pt")
    assert done.returncode == 6
    assert "about" in done.stderr
    assert "more images needed" in done.stderr
    assert "add images to --data, or raise --max-drop" in done.stderr
    wide = deploytool("export", *MODEL, *map(str, words), "--max-drop", "40pt")
    assert wide.returncode == 0
    assert {artifact["measure"]["verdict"] for artifact in measures(folder / "run")["artifacts"]} == {"not worse"}


def test_an_artifact_that_is_worse_fails_with_3(folder: Path, deploytool: Command) -> None:
    words = ("--data", folder / "images", "--metric", f"{folder / 'metrics.py'}:exact", "--out", folder / "run")
    done = deploytool("export", *MODEL, *map(str, words))
    assert done.returncode == 3
    assert "fp16 in FP16 arithmetic by exact: worse, -1.0000" in done.stderr
    verdicts = {each["runner"]: each["measure"]["verdict"] for each in measures(folder / "run")["artifacts"]}
    assert verdicts["fp16_emulation"] == "worse"
    assert verdicts["onnxruntime"] == "not decided"
    budget = deploytool("diff", str(folder / "run"), str(folder / "run"), "--fail-if", "drop>0.5pt")
    assert budget.returncode == 10


def test_a_metric_that_fails_is_one_line_and_the_run_can_go_on(folder: Path, deploytool: Command) -> None:
    words = ("--data", folder / "images", "--out", folder / "broken", "--metric")
    done = deploytool("export", *MODEL, *map(str, words), f"{folder / 'metrics.py'}:broken")
    assert done.returncode == 2
    assert "broken raises KeyError" in done.stderr
    assert "Traceback" not in done.stderr
    again = deploytool("export", *MODEL, *map(str, words), f"{folder / 'metrics.py'}:always")
    assert again.returncode == 0, again.stderr
    assert [line.split()[1] for line in again.stdout.splitlines() if line.split()[:1] == ["fp16"]] == ["kept"]


def test_a_ready_metric_counts_as_numpy_does(folder: Path, deploytool: Command) -> None:
    words = ("--data", folder / "images", "--metric", "top1", "--max-drop", "50pt", "--out", folder / "run")
    done = deploytool("export", *MODEL, "--arg", "classes=2", *map(str, words))
    assert done.returncode == 0, done.stderr
    import onnxruntime as ort

    session = ort.InferenceSession(folder / "run" / "rewrite" / "model.onnx")
    correct = 0
    for label, name in enumerate(("cat", "dog")):
        for path in sorted((folder / "images" / name).iterdir()):
            resized = Image.open(path).resize((36, 40), Image.Resampling.BILINEAR)  # 36 is 32 · 256/224
            pixels = np.asarray(resized, np.float32)[4:36, 2:34] / 255
            (scores,) = session.run(None, {"input": pixels.transpose(2, 0, 1)[None]})
            correct += int(scores.argmax() == label)
    by_stage = {each["stage"]: each["measure"]["artifact"] for each in measures(folder / "run")["artifacts"]}
    assert by_stage["rewrite"] == pytest.approx(correct / IMAGES)


def test_outputs_of_another_task_are_refused_before_anything_is_exported(folder: Path, deploytool: Command) -> None:
    words = ("--task", "detect", "--to", "onnx", "--out", str(folder / "classifier"))
    for _ in range(2):  # the golden data is kept the second time
        done = deploytool("export", *MODEL, *words)
        assert done.returncode == 2
        assert "the task is detect, but the outputs logits (4, 10) are no boxes with scores" in done.stderr
        assert "state another --task, or select outputs (--output)" in done.stderr
        assert [line.split()[0] for line in done.stdout.splitlines() if line.split()] == ["into", "load", "golden"]


def test_labels_that_name_fewer_classes_than_there_are_scores_are_refused(folder: Path, deploytool: Command) -> None:
    labels = folder / "one.csv"
    labels.write_text("0.png,dog\n2.png,dog\n")
    words = ("--data", folder / "images" / "dog", "--labels", labels, "--metric", "top1", "--out", folder / "fewer")
    done = deploytool("export", *MODEL, *map(str, words), "--to", "onnx")
    assert done.returncode == 2
    assert "the labels name 1 classes" in done.stderr


def test_a_mask_with_a_class_of_no_score_is_refused(folder: Path, deploytool: Command) -> None:
    model, data, masks = folder / "areas.py", folder / "pictures", folder / "masks"
    model.write_text("import torch\ndef make():\n    return torch.nn.Conv2d(3, 2, 1)\n")
    for each in (data, masks):
        each.mkdir()
    Image.new("RGB", (32, 32)).save(data / "a.png")
    Image.fromarray(np.full((32, 32), 2, np.uint8)).save(masks / "a.png")
    words = ("--data", data, "--labels", masks, "--out", folder / "areas")
    done = deploytool("export", f"{model}:make", *MODEL[1:], *map(str, words), "--to", "onnx")
    assert done.returncode == 2
    assert "a.png has the class 2, and the model 2 classes from 0 on" in done.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--metric", "top1"), "--metric needs images"),
        (("--max-drop", "0.5pt"), "--max-drop needs images"),
        (("--data", "images", "--max-drop", "5%"), "--max-drop 5% is no margin"),
        (("--data", "images", "--max-drop", "0"), "--max-drop 0 is no margin"),
        (
            ("--data", "images", "--metric", "top1", "--max-drop", "100pt"),
            "--max-drop is 100 points, at least the",
        ),
        (("--data", "images", "--metric", "top1", "--max-drop", "0.5"), "--max-drop 0.5 has no unit"),
        (("--data", "images", "--metric", "mape"), "'mape' is no metric"),
        (("--data", "images", "--metric", "mAP"), "choose from top1, top5, map, miou,"),
        (("--data", "images", "--metric", "metrics.py:nothing"), "defines no function 'nothing'"),
        (("--data", "images", "--metric", "map"), "give --labels"),
        (("--data", "images", "--task", "segment", "--metric", "top1"), "--task is for the task segment"),
        (("--data", "images", "--max-drop", "1pt"), "nothing says what the outputs mean"),
        (("--data", "images", "--metric", "top1", "--decode", "nms=0.5"), "--decode is for detectors"),
        (("--data", "images", "--task", "detect", "--decode", "boxes=yxyx"), "--decode boxes=yxyx is not valid"),
        (("--data", "images", "--task", "detect", "--decode", "nms=1.5"), "is out of range"),
        (("--data", "images", "--task", "detect", "--decode", "iou=1"), "--decode has no iou"),
        (
            ("--data", "images", "--metric", "absent.py:score"),
            "absent.py:score: it cannot be imported: ",
        ),
        (("--data", "images", "--metric", "json:score"), "json has no function 'score'"),
        (("--data", "images/dog", "--labels", "empty.json"), "the labels have no object"),
        (("--data", "images", "--labels", "missing.csv", "--metric", "top1"), "missing.csv"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_the_run(
    words: tuple[str, ...], problem: str, folder: Path, deploytool: Command
) -> None:
    here = {"images", "images/dog", "metrics.py:nothing", "missing.csv", "absent.py:score", "empty.json"}
    (folder / "absent.py").write_text("import no_such_module\n\ndef score(outputs, targets):\n    return []\n")
    listed = {"images": [{"id": 1, "file_name": "0.png"}], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    (folder / "empty.json").write_text(json.dumps(listed))
    given = [str(folder / word) if word in here else word for word in words]
    done = deploytool("export", *MODEL, *given, "--out", str(folder / "refused"))
    assert done.returncode == 2
    assert problem in done.stderr
    assert not (folder / "refused").exists()
