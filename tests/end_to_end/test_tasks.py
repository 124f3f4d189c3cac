"""A trained detector and a trained segmenter, from labels to the device; their figures are computed here once more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from tests.conftest import ROOT, Command
from tests.tasks import scenes

SIZE = (128, 160)
FILL = 114
SCENES = 14
WORDS = ("--input", "3x128x160", "--mean", "0", "--std", "1", "--fit", "letterbox", "--quick")
TASKS = ROOT / "tests" / "tasks"
Array = np.ndarray[Any, np.dtype[Any]]


def inputs(folder: Path) -> Iterator[tuple[Path, Array, float, int, int]]:
    """Each picture as the letterbox makes it, with its factor and its offsets to the left and from the top."""
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        factor = min(SIZE[0] / picture.height, SIZE[1] / picture.width)
        wide, high = round(picture.width * factor), round(picture.height * factor)
        left, top = round((SIZE[1] - wide) / 2 - 0.1), round((SIZE[0] - high) / 2 - 0.1)
        canvas = Image.new("RGB", (SIZE[1], SIZE[0]), (FILL, FILL, FILL))
        canvas.paste(picture.resize((wide, high), Image.Resampling.BILINEAR), (left, top))
        pixels = np.asarray(canvas, np.float32).transpose(2, 0, 1)[None] * np.float32(1 / 255)
        yield path, pixels, factor, left, top


def answers(home: Path, pixels: Array) -> dict[str, Array]:
    session = ort.InferenceSession(home / "rewrite" / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: pixels}), strict=True))


def measured(home: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((home / "validate" / "report.json").read_text())["measures"]
    return found


def of_rewrite(home: Path) -> float:
    (found,) = (each for each in measured(home)["artifacts"] if each["stage"] == "rewrite")
    return float(found["measure"]["artifact"])


def test_a_detector_is_judged_by_map_and_draws_on_the_device(tmp_path: Path, deploytool: Command) -> None:
    coco, cocoeval = (pytest.importorskip(f"pycocotools.{name}", reason="the truth") for name in ("coco", "cocoeval"))
    scenes.write_detection(tmp_path / "set", SCENES)
    folder, labels, home = tmp_path / "set" / "images", tmp_path / "set" / "annotations.json", tmp_path / "run"
    model = (f"{TASKS / 'detector.py'}:detector", "--weights", str(TASKS / "detector.safetensors"))
    judged = ("--data", str(folder), "--labels", str(labels), "--max-drop", "40pt", "--pack", "--out", str(home))
    done = deploytool("export", *model, *WORDS, *judged)
    assert done.returncode == 0, done.stdout + done.stderr
    assert measured(home)["task"] == "detect"
    assert "the outputs are objects" not in done.stdout  # the labels said so already

    document = json.loads(labels.read_text())
    ids = {entry["file_name"]: entry["id"] for entry in document["images"]}
    categories = sorted(entry["id"] for entry in document["categories"])
    rows, shown = [], list[int]()
    for path, pixels, factor, left, top in inputs(folder):
        out = answers(home, pixels)
        with Image.open(path) as opened:
            width, height = opened.size
        for box, score, label in zip(out["boxes"][0], out["scores"][0], out["labels"][0], strict=True):
            if score >= 0.3 and path.name == "000001.png":
                shown.append(int(label))
            if score >= 0.05:
                x1, x2 = np.clip((box[[0, 2]].astype(float) - left) / factor, 0, width)
                y1, y2 = np.clip((box[[1, 3]].astype(float) - top) / factor, 0, height)
                corner = [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]
                row = {"image_id": ids[path.name], "category_id": categories[int(label)], "bbox": corner}
                rows.append({**row, "score": float(score)})
    truth = coco.COCO()
    truth.dataset = {**document, "info": {}}
    for entry in truth.dataset["annotations"]:
        entry.setdefault("area", entry["bbox"][2] * entry["bbox"][3])
        entry.setdefault("iscrowd", 0)
    truth.createIndex()
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    expected = float(precision[precision > -1].mean())
    assert expected > 0.2
    assert of_rewrite(home) == pytest.approx(expected, abs=0.02)  # rounded sides and one factor are no more apart

    (tmp_path / "drawn").mkdir()
    words = (str(home / "pack" / "bundle"), str(folder / "000001.png"), "--draw", str(tmp_path / "drawn"))
    done = deploytool("run", *words, "--min-score", "0.3", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["result"]["objects"]
    assert [box["index"] for box in found["boxes"]] == shown
    assert [box["name"] for box in found["boxes"]] == [f"digit {label}" for label in shown]
    assert [str(path) for path in (tmp_path / "drawn").iterdir()] == [found["drawing"]]


def test_a_segmenter_is_judged_by_miou_and_shows_its_areas(tmp_path: Path, deploytool: Command) -> None:
    scenes.write_segmentation(tmp_path / "set", SCENES)
    folder, masks, home = tmp_path / "set" / "images", tmp_path / "set" / "masks", tmp_path / "run"
    model = (f"{TASKS / 'segmenter.py'}:segmenter", "--weights", str(TASKS / "segmenter.safetensors"))
    judged = ("--data", str(folder), "--labels", str(masks), "--max-drop", "40pt", "--pack", "--out", str(home))
    done = deploytool("export", *model, *WORDS, *judged)
    assert done.returncode == 0, done.stdout + done.stderr
    overlap, union, marked = np.zeros(256), np.zeros(256), np.zeros(256)
    areas: dict[str, Array] = {}
    for path, pixels, _, left, top in inputs(folder):
        (logits,) = answers(home, pixels).values()
        classes = logits[0].argmax(axis=0)
        with Image.open(masks / path.name) as opened:
            mask = np.array(opened)
        height, width = mask.shape
        factor = min(SIZE[0] / height, SIZE[1] / width)
        high, wide = round(height * factor), round(width * factor)
        areas[path.name] = np.zeros(256)
        for y in range(height):
            for x in range(width):
                row, column = int((y + 0.5) * high / height + top), int((x + 0.5) * wide / width + left)
                seen, true = int(classes[row, column]), int(mask[y, x])
                areas[path.name][seen] += 1 / mask.size
                if true != 255:
                    overlap[true] += seen == true
                    marked[true] += 1
                    for each in {seen, true}:
                        union[each] += 1
    present = marked > 0
    expected = float((overlap[present] / union[present]).mean())
    assert expected > 0.4
    assert of_rewrite(home) == pytest.approx(expected, abs=1e-9)
    done = deploytool("run", str(home / "pack" / "bundle"), str(folder / "000001.png"), "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["result"]["areas"]
    expected_shares = {index: share for index, share in enumerate(areas["000001.png"]) if share}
    assert {each["index"]: each["share"] for each in found["shares"]} == pytest.approx(expected_shares, abs=1e-9)
