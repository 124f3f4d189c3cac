"""Tests that every stage uses the model definition that the load stage has adapted to the checkpoint."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deploytool.data import golden
from deploytool.loading.catalog import find
from deploytool.parity import reference_cases, shape_corners
from deploytool.pipeline import runner
from deploytool.spec import Job, Range, Source, Stage, Tensor
from tests.conftest import QUICK
from tests.loading.checkpoints import published

SIDES = {"height": Range(64, 64, 96), "width": Range(64, 64, 96)}


def test_corner_inputs_have_the_preprocessing_of_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golden and corner inputs are in the range that the checkpoint expects, -1 to 1; the zoo model has a wider one."""
    model = replace(find("mobilenet_v1_025"), inputs=(Tensor("input", ("batch", 3, "height", "width")),))
    path = tmp_path / "model.pth"
    torch.save(published.tensors(published.huggingface_mobilenet(0.25)), path)
    weights = Source(str(path), hashlib.sha256(path.read_bytes()).hexdigest())

    largest: list[float] = []
    draw = shape_corners.draw

    def recorded(*arguments: object) -> list[shape_corners.Corner]:
        corners = draw(*arguments)  # type: ignore[arg-type]  # passed on unchanged
        largest.extend(float(np.abs(corner.inputs["input"]).max()) for corner in corners)
        return corners

    monkeypatch.setattr(reference_cases, "draw", recorded)
    recipe = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY)
    list(runner.run(Job(model, replace(QUICK, weights=weights, sizes=SIDES)), recipe, tmp_path / "run"))
    sample = golden.read(tmp_path / "run" / "golden" / "golden.npz")
    assert np.abs(sample.inputs["input"]).max() <= 1
    assert len(largest) >= 4
    assert max(largest) <= 1
