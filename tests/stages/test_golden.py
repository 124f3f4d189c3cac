"""Tests of the golden stage."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from deploytool.backends import eager
from deploytool.data import golden, images
from deploytool.data.golden import Edge, Floor, Noise
from deploytool.errors import StageFailed
from deploytool.results.artifact import Kind
from deploytool.spec import Job, Model, Tensor
from deploytool.stages import golden as stages_golden
from tests.conftest import QUICK, TINY, artifacts


def test_the_golden_file_has_pixels_inputs_and_answers_in_both_precisions(finished: Path) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    assert sample.pixels.shape == (4, 32, 32, 3)
    np.testing.assert_array_equal(sample.inputs["input"], images.normalise(sample.pixels, TINY.preprocessing))
    assert sample.outputs["logits"].dtype == np.float32
    assert sample.reference["logits"].dtype == np.float64
    np.testing.assert_allclose(sample.outputs["logits"], sample.reference["logits"], atol=1e-5)
    assert (sample.outputs["logits"] != sample.reference["logits"]).any()


def test_every_golden_image_has_a_clear_class(finished: Path) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    assert stages_golden.margin(sample.reference["logits"]).min() >= 0.01


def test_a_margin_is_the_difference_between_the_two_best_scores() -> None:
    np.testing.assert_allclose(stages_golden.margin(np.array([[1.0, 4.0, 3.0], [0.0, 0.0, -2.0]])), [0.25, 0.0])
    np.testing.assert_array_equal(stages_golden.margin(np.zeros((2, 3))), [0.0, 0.0])
    np.testing.assert_array_equal(stages_golden.margin(np.zeros((2, 1))), [1.0, 1.0])


def test_the_number_of_images_is_that_of_the_options(run_copy: Path, tmp_path: Path) -> None:
    notes = stages_golden.make(
        Job(TINY, dataclasses.replace(QUICK, images=37)), tmp_path / "golden.npz", artifacts(run_copy)
    )
    assert notes["images"] == 37
    assert len(golden.read(tmp_path / "golden.npz").pixels) == 37


def test_a_model_that_returns_nan_is_an_error(run_copy: Path, tmp_path: Path) -> None:
    weights = artifacts(run_copy).latest(Kind.WEIGHTS).path
    state = load_file(weights)
    state["classifier.bias"][0] = float("nan")
    from safetensors import safe_open

    with safe_open(weights, framework="numpy") as file:
        metadata = file.metadata()
    save_file(state, weights, metadata)
    with pytest.raises(StageFailed, match="the model returns NaN"):
        stages_golden.make(Job(TINY, QUICK), tmp_path / "golden.npz", artifacts(run_copy))
    assert not (tmp_path / "golden.npz").exists()


class Recogniser(nn.Module):
    """The beginning of a speech model: GroupNorm over time of one channel a group, then LayerNorm over channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv1d(1, 16, 10, 5, bias=False), nn.GroupNorm(16, 16))
        self.last = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 4))

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.last(self.first(sound[:, None]).transpose(1, 2)).mean(1)
        return answer


@torch.inference_mode()
def test_an_edge_at_which_the_order_of_sums_decides_is_left_out() -> None:
    """The variance of a constant is zero: what is normalised is how a runtime adds, which differs from PyTorch."""
    model = Model(
        "recogniser", "-", inputs=(Tensor("sound", ("batch", 8000)),), outputs=(Tensor("scores", ("batch", 4)),)
    )
    sound = np.random.default_rng(0).normal(size=(1, 8000)).astype(np.float32)
    module = Recogniser().eval()
    single, double = (
        eager.make_session(each, model, double)
        for each, double in ((module, False), (Recogniser().double().eval(), True))
    )
    edges = [
        Edge(name, True, {"sound": values}, single(sound=values), double(sound=values))
        for name, values in (("a constant", np.full_like(sound, 1.7)), ("quiet", sound * np.float32(0.1)))
    ]
    floor = Noise(Floor(1e-6, 1e-6), Floor(1e-3, 1e-3))
    kept, (remark,) = stages_golden._judgeable(edges, single, double(sound=sound), floor)
    assert [edge.name for edge in kept] == ["quiet"]
    assert str(remark).startswith("edge case a constant is left out: the order of FP32 sums alone changes")


@pytest.mark.parametrize(
    ("channels", "problem"), [(1, "takes images for left, but right does not count as one"), (5, "images alone")]
)
def test_images_for_a_model_with_another_input_name_that_input(channels: int, problem: str) -> None:
    left = Tensor("left", ("batch", 3 if channels == 1 else channels, 8, 8))
    model = Model("net", "net.py:make", inputs=(left, Tensor("right", ("batch", channels, 8, 8))))
    assert problem in str(stages_golden._no_images(model))


def test_images_for_a_model_that_also_takes_numbers_name_the_file_to_give_instead() -> None:
    inputs = (Tensor("image", ("batch", 3, 8, 8)), Tensor("ids", ("batch", 5), "int64", 9))
    refused = stages_golden._no_images(Model("net", "net.py:make", inputs=inputs))
    assert "takes images for image, but ids does not count as one" in str(refused)
    remedy = "--inputs: numpy.savez(FILE, image=…, ids=…), the images as image takes them: float32, cases×3×8×8"
    assert remedy in refused.remedy
    assert "one channel is no image" not in refused.remedy
