"""Tests of a training's outputs: weights with their model definition, history, learning curve and summary."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors import safe_open

from deploytool.backends import eager
from deploytool.data import images
from deploytool.loading import weights_file
from deploytool.training import curve, loop
from deploytool.training.recipe import Epoch, Results, Score
from deploytool.training.task import TrainingTask
from tests.training.conftest import NAMES

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def trained(quick: TrainingTask, tmp_path: Path) -> tuple[Path, tuple[Epoch, ...], Results]:
    history = tuple(loop.train(quick, tmp_path / "out"))
    return tmp_path / "out", history, loop.finish(quick, tmp_path / "out")


def test_the_weights_file_defines_the_model(
    trained: tuple[Path, tuple[Epoch, ...], Results], quick: TrainingTask
) -> None:
    out, _, results = trained
    path, test = out / "weights.safetensors", quick.data.test
    model = weights_file.definition(path)
    assert model == quick.model
    with eager.start(path) as session:
        logits = session(input=images.normalise(test.pixels, model.preprocessing))["logits"]
    assert np.mean(logits.argmax(1) == test.labels) == pytest.approx(results.test.accuracy)
    with safe_open(path, framework="numpy") as file:
        metadata = {name: json.loads(text) for name, text in file.metadata().items()}
    assert metadata["classes"] == list(NAMES)
    assert metadata["recipe"]["learning_rate"] == 0.01
    assert metadata["results"]["best_epoch"] == results.best_epoch


def test_the_summary_has_model_data_results_and_versions(trained: tuple[Path, tuple[Epoch, ...], Results]) -> None:
    out, _, results = trained
    summary = json.loads((out / "training.json").read_text())
    assert summary["results"]["test"] == {"loss": results.test.loss, "accuracy": results.test.accuracy}
    assert summary["model"]["options"] == {"classes": 10}
    assert {name: summary["data"][name] for name in ("train", "validation", "test")} == {
        **{"train": 90, "validation": 10, "test": 40}
    }
    assert set(summary["versions"]) == {"python", "torch", "numpy", "device"}


def test_the_history_has_a_row_for_each_epoch(trained: tuple[Path, tuple[Epoch, ...], Results]) -> None:
    out, history, _ = trained
    with (out / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["learning_rate"]) for row in rows] == [0.01, 0.01, 0.005, 0.005]
    for row, record in zip(rows, history, strict=True):
        assert Score(float(row["train_loss"]), float(row["train_accuracy"])) == record.train
        assert Score(float(row["validation_loss"]), float(row["validation_accuracy"])) == record.validation
        assert float(row["seconds"]) == record.seconds > 0


@pytest.mark.parametrize("epochs", [1, 2, 50])
def test_the_curve_stays_within_its_frame(epochs: int) -> None:
    history = [Epoch(i, 0.01, Score(5 / i, i / 50), Score(6 / i, i / 60), 1.0) for i in range(1, epochs + 1)]
    svg = ElementTree.fromstring(curve.draw(history))
    lines = svg.findall(f".//{SVG}polyline")
    assert len(lines) == 4
    frame = svg.find(f".//{SVG}g/{SVG}rect")
    assert frame is not None
    for line in lines:
        points = np.array([point.split(",") for point in line.attrib["points"].split()], float)
        assert len(points) == epochs
        assert (points >= 0).all()
        assert (points <= [float(frame.attrib["width"]), float(frame.attrib["height"])]).all()
    loss = lines[0].attrib["points"].split()
    assert float(loss[-1].split(",")[1]) >= float(loss[0].split(",")[1])  # the loss falls, and y points down


def test_the_curve_shows_the_history(trained: tuple[Path, tuple[Epoch, ...], Results]) -> None:
    out, history, _ = trained
    assert (out / "curve.svg").read_text() == curve.draw(history)


def test_a_loss_of_zero_can_be_drawn() -> None:
    assert "nan" not in curve.draw([Epoch(1, 0.01, Score(0.0, 1.0), Score(0.0, 1.0), 1.0)])
