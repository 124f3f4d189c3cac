"""`deploytool train`: its output, its document, resuming, and refused input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from deploytool.cli.app import app
from deploytool.errors import BadInput
from tests.conftest import modules_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two classes of twenty 16 × 16 images, dark and bright."""
    for name, level in (("dark", 0), ("light", 200)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (16, 16), (level + number,) * 3).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["train", "mobilenet_v1_025", *arguments])


def test_it_prints_each_epoch_and_the_next_step(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = call("--data", str(folder), "--out", str(out), "--epochs", "3", "--step", "2", "--batch", "8")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "mobilenet_v1_025 for 2 classes at 16×16"
    assert lines[1] == "images: 32 for training, 4 for validation, 4 for testing"
    assert [line.partition("  loss")[0] for line in lines[2:5]] == [
        *("epoch 1/3  rate 0.01    ", "epoch 2/3  rate 0.01    ", "epoch 3/3  rate 0.005   ")
    ]
    assert lines[-2].startswith("test accuracy ")
    assert lines[-1] == f"Next: deploytool export mobilenet_v1_025 --weights {out / 'weights.safetensors'}"
    assert sorted(path.name for path in out.iterdir()) == [
        *("checkpoint.pt", "curve.svg", "history.csv", "training.json", "weights.safetensors")
    ]


def test_json_is_the_same_when_repeated_from_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    arguments = ("--data", str(folder), "--out", str(tmp_path / "out"), "--epochs", "1", "--no-flip", "--json")
    first, again = (json.loads(call(*arguments).stdout) for _ in range(2))
    assert first == again
    assert first["recipe"]["flip"] is False
    assert len(first["history"]) == 1
    assert set(first["results"]) == {"best_epoch", "validation", "test", "seconds"}


def test_another_recipe_in_the_same_folder_needs_no_resume(folder: Path, tmp_path: Path) -> None:
    arguments = ("--data", str(folder), "--out", str(tmp_path / "out"), "--epochs", "1")
    assert call(*arguments).exit_code == 0
    assert isinstance(call(*arguments, "--seed", "7").exception, BadInput)
    assert call(*arguments, "--seed", "7", "--no-resume").exit_code == 0


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert isinstance(call("--data", str(tmp_path / "nowhere")).exception, BadInput)


def test_a_model_that_is_not_built_in_is_refused(folder: Path) -> None:
    error = CliRunner().invoke(app, ["train", "net.py:make", "--data", str(folder)]).exception
    assert isinstance(error, BadInput)
    assert str(error) == "train supports built-in models only, and net.py:make is not one of them"
    assert "--weights FILE" in error.remedy


def test_importing_the_command_does_not_import_torch() -> None:
    assert "torch" not in modules_of("import deploytool.cli.train")
