"""Tests of the user's own weights, images and training through the whole pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deploytool.cli import params
from deploytool.data import golden, images
from deploytool.data.images import Pixels
from deploytool.loading import catalog
from deploytool.pipeline import options as pipeline_options
from deploytool.pipeline import runner
from deploytool.pipeline.recipe import PIPELINE
from deploytool.results import report, verdict
from deploytool.results.receipt import Receipt
from deploytool.results.report import Comparison
from deploytool.spec import Job, Options, Stage, Status, Tensor
from deploytool.training import cifar
from deploytool.training.recipe import Recipe
from tests.conftest import Command
from tests.loading.checkpoints import published
from tests.training.test_digits import train_digits

RECIPE = [stage for stage in PIPELINE if stage != Stage.BUILD]
SMALL = ("--input", "3x64x64", "--seconds", "0.1")
FEW = (*SMALL, "--images", "4")


def save_checkpoint(path: Path, layout: str = "torchvision_squeezenet1_1", seed: int = 0) -> Path:
    """Saves a checkpoint with published keys and shapes and random values."""
    torch.save(published.tensors(published.shapes(layout), seed=seed), path)
    return path


def fresh_stages(output: str) -> list[str]:
    """The stages that did not reuse their artifact."""
    lines = [line.split() for line in output.splitlines()]
    return [words[0] for words in lines if words and words[0] in RECIPE and words[1] != "kept"]


def receipts(run: Path) -> dict[str, Receipt]:
    return {receipt.made_by: receipt for _, receipt in runner.stage_directories(run)}


def test_a_checkpoint_is_identified_by_its_content(deploytool: Command, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "weights.pth")
    arguments = ("export", "squeezenet1_1", "--weights", "weights.pth", *FEW)
    first = deploytool(*arguments)
    assert (first.returncode, first.stderr) == (0, "")
    assert fresh_stages(first.stdout) == RECIPE
    digest = pipeline_options.file(path).digest
    notes = receipts(tmp_path / "artifacts" / "squeezenet1_1")["load"].notes
    assert notes["weights"] == f"torchvision checkpoint, SHA-256 {digest}"
    path.touch()
    assert fresh_stages(deploytool(*arguments).stdout) == []
    save_checkpoint(path, seed=1)
    assert fresh_stages(deploytool(*arguments).stdout) == RECIPE


def test_options_of_a_checkpoint_are_used_and_an_fp16_overflow_fails(deploytool: Command, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "weights.pth", "megvii_shufflenet_g3_x1_0")
    done = deploytool("export", "shufflenet_g3", "--weights", "weights.pth", *FEW)
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert "fp16" in done.stdout
    model = receipts(tmp_path / "artifacts" / "shufflenet_g3")["load"].notes["model"]
    assert isinstance(model, Mapping)
    assert model["options"]["shuffle_order"] == "megvii"  # type: ignore[call-overload, index]  # Json
    assert model["preprocessing"]["channels"] == "BGR"  # type: ignore[call-overload, index]  # Json
    assert model["preprocessing"]["crop"] == 64  # type: ignore[call-overload, index]  # Json


@pytest.mark.parametrize(
    ("model", "content", "problem", "remedy"),
    [
        ("mixnet_s", None, "this is a torchvision squeezenet checkpoint, and mixnet_s was requested", "squeezenet"),
        ("squeezenet1_0", None, "the checkpoint (layout: torchvision) does not fit squeezenet1_0: ", "squeezenet1_1"),
        ("squeezenet1_1", b"garbage", "this is not a checkpoint: it begins with b'garbage'", ".safetensors"),
        ("squeezenet1_1", b"", "the checkpoint is an empty file", "download the file again"),
    ],
)
def test_wrong_weights_are_an_error_in_one_line_and_leave_no_files(
    deploytool: Command, tmp_path: Path, model: str, content: bytes | None, problem: str, remedy: str
) -> None:
    path = save_checkpoint(tmp_path / "weights.pth")
    if content is not None:
        path.write_bytes(content)
    done = deploytool("export", model, "--weights", "weights.pth", *FEW)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (2, 2), done.stderr
    assert lines[0].startswith(f"deploytool: {problem}")
    assert remedy in lines[1]
    assert not [path for path in tmp_path.rglob("artifacts/**/*") if path.is_file()]


NET = """
from torch import nn

def make(width=8):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))
"""


def test_weights_for_a_users_model(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    state = {"0.weight": (8, 3, 3, 3), "0.bias": (8,), "3.weight": (4, 8), "3.bias": (4,)}
    torch.save(published.tensors(state), tmp_path / "weights.pth")
    arguments = ("export", "net.py:make", "--weights", "weights.pth", *FEW)
    done = deploytool(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for argument, code, problem in (
        ("width=4", 2, "deploytool: the checkpoint (layout: "),
        ("depth=4", 7, "deploytool: net.py:make raises TypeError: "),
    ):
        refused = deploytool(*arguments, "--arg", argument, "--out", "other")
        assert (refused.returncode, len(refused.stderr.splitlines())) == (code, 2), refused.stderr
        assert refused.stderr.startswith(problem)


def photographs() -> dict[str, Pixels]:
    """The sample photographs of scikit-learn."""
    datasets = pytest.importorskip("sklearn.datasets", reason="its sample photographs are needed")
    sample = datasets.load_sample_images()
    return {Path(name).name: picture for name, picture in zip(sample.filenames, sample.images, strict=True)}


def measured(run: Path) -> list[Comparison]:
    """The measured comparisons of a run without failed checks."""
    written = report.read(run / "validate" / "report.json")
    assert verdict.failed_lines(written) == ()
    return [comparison for comparison in written.comparisons if comparison.status == Status.MEASURED]


def test_a_folder_of_photographs_becomes_the_golden_images(deploytool: Command, tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    for name, picture in photographs().items():
        Image.fromarray(picture).save(tmp_path / "photographs" / f"{name}.png")
    model = "squeezenet1_1"
    done = deploytool("export", model, "--data", "photographs", *SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Agreement with the source on 2 images of photographs" in done.stdout
    run = tmp_path / "artifacts" / model
    sample = golden.read(run / "golden" / "golden.npz")
    preprocessing = catalog.find(model, params.tensors(["3x64x64"])).preprocessing
    fitted = [images.fit(picture, preprocessing) for _, picture in sorted(photographs().items())]
    np.testing.assert_array_equal(sample.pixels, np.stack(fitted))
    np.testing.assert_array_equal(sample.inputs["input"], images.normalise(sample.pixels, preprocessing))
    for comparison in measured(run):
        assert comparison.agreement is not None
        assert (comparison.agreement.cases, comparison.agreement.top1, comparison.agreement.flips) == (2, 1.0, ())
        assert 0.3 < comparison.agreement.low < comparison.agreement.high == 1.0
        assert comparison.accuracy is None


def test_accuracy_is_measured_on_folders_of_classes(deploytool: Command, tmp_path: Path) -> None:
    for label, picture in enumerate(photographs().values()):
        (tmp_path / "classes" / f"{label:03}").mkdir(parents=True)
        for number in range(5):
            crop = picture[40 * number : 40 * number + 200, 60 * number : 60 * number + 300]
            Image.fromarray(crop).save(tmp_path / "classes" / f"{label:03}" / f"{number}.png")
    (tmp_path / "net.py").write_text(NET)
    done = deploytool("export", "net.py:make", "--data", "classes", *SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    sample = golden.read(tmp_path / "artifacts" / "net_make" / "golden" / "golden.npz")
    assert sample.labels.tolist() == [0] * 5 + [1] * 5
    accuracy = float((sample.reference["logits"].argmax(axis=1) == sample.labels).mean())
    for comparison in measured(tmp_path / "artifacts" / "net_make"):
        assert comparison.accuracy is not None
        assert (comparison.accuracy.source, comparison.accuracy.artifact) == (accuracy, accuracy)
        assert (comparison.accuracy.lost, comparison.accuracy.won, comparison.accuracy.p_value) == (0, 0, 1.0)


@pytest.mark.parametrize(
    ("inputs", "folder", "problem"),
    [
        (("--input", "3x64x64"), "empty", "empty holds no picture"),
        (("--input", "3x64x64"), "nowhere", "there is no folder nowhere"),
        (("--input", "3x64x64"), "broken", "broken/picture.jpg cannot be read as a picture: "),
        (("--input", "3x64x48"), "broken", "broken/picture.jpg cannot be read as a picture: "),
    ],
)
def test_an_unusable_folder_is_an_error_in_one_line(
    deploytool: Command, tmp_path: Path, inputs: tuple[str, ...], folder: str, problem: str
) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "picture.jpg").write_bytes(b"no picture")
    done = deploytool("export", "net.py:make", "--data", folder, *inputs)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (2, 2), done.stderr
    assert lines[0].startswith(f"deploytool: {problem}")
    assert set(receipts(tmp_path / "artifacts" / "net_make")) <= {"load"}


def test_trained_weights_keep_their_accuracy_up_to_the_fp16_graph(tmp_path: Path, with_engine: Options) -> None:
    """A MobileNet for 224 × 224 is trained on images of 32 × 32 and exported with that size."""
    (tmp_path / "digits").mkdir()
    results = train_digits(tmp_path / "digits", Recipe(epochs=3, flip=False))
    _, test, classes = cifar.read(tmp_path / "digits")
    for number, (picture, label) in enumerate(zip(test.pixels, test.labels, strict=True)):
        folder = tmp_path / "test" / classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number:03}.png")
    weights = pipeline_options.file(tmp_path / "digits" / "out" / "weights.safetensors")
    data = pipeline_options.folder(tmp_path / "test")
    options = dataclasses.replace(with_engine, weights=weights, data=data, images=len(test))
    model = catalog.find("mobilenet_v1_025", arguments={"stem": "cifar"})
    assert model.inputs == (Tensor("input", ("batch", 3, 224, 224)),)
    *_, last = runner.run(Job(model, options), PIPELINE, tmp_path / "run")
    assert last.path.is_file()
    accuracies = {
        comparison.stage: comparison.accuracy.artifact
        for comparison in report.read(last.path).comparisons
        if comparison.accuracy
    }
    assert accuracies[Stage.GOLDEN] == pytest.approx(results.test.accuracy)
    for stage in (Stage.TORCHSCRIPT, Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE, Stage.FP16):
        assert abs(accuracies[stage] - accuracies[Stage.GOLDEN]) <= 1.001 / len(test)
    assert (tmp_path / "run" / "build" / "model.plan").is_file()
