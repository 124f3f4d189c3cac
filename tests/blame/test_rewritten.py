"""Blame across a rewrite, where tensors go and others come: sound forms stay sound, and faults lead to the module."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from deploytool.blame.locate import locate
from deploytool.loading import catalog
from deploytool.pipeline import runner
from deploytool.results.blame import Blame
from deploytool.spec import Job, Stage, Tensor
from tests.blame import faults
from tests.conftest import QUICK

ROAD = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE, Stage.FP16)
STAGES = (Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE, Stage.FP16)
FORMS = (
    ("shufflenet_g3_x0_25", "parted"),
    ("shufflenet_g3_x0_25", "fewest"),
    ("mixnet_s", "grouped"),
    ("squeezenet1_1", "fewest"),
)


def blamed(run: Path, **spoiled: Path) -> Blame:
    graphs = [(stage, spoiled.get(stage, run / stage / "model.onnx")) for stage in STAGES]
    return locate(run / Stage.LOAD / "weights.safetensors", run / Stage.GOLDEN / "golden.npz", graphs)[0]


def walked(home: Path, name: str, recipe: str) -> Path:
    side = 64 if name == "squeezenet1_1" else 32  # at 32, hardly a pixel of a Fire module is left
    model = catalog.find(name, [Tensor("input", ("batch", 3, side, side))])
    options = dataclasses.replace(QUICK, rewrite=recipe)
    *_, halved = runner.run(Job(model, options), ROAD, home)
    assert halved.made_by == "fp16"
    return home


@pytest.fixture(scope="module", params=FORMS, ids="-".join)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return walked(tmp_path_factory.mktemp("rewritten") / "run", *request.param)


def test_a_sound_form_blames_nobody(run: Path) -> None:
    found = blamed(run)
    assert found.finding is None
    for comparison in found.comparisons:
        assert all(layer.error <= layer.noise_floor for layer in comparison.layers if layer.error is not None)
        if comparison.stage in ("rewrite", "fp16"):
            known = sum(layer.error is not None for layer in comparison.layers)
            assert known >= 0.3 * len(comparison.layers)
            assert all(layer.module for layer in comparison.layers if layer.op == "Conv")


@pytest.mark.parametrize("stage", ["rewrite", "fp16"])
def test_a_fault_behind_a_rewrite_is_blamed_on_its_comparison_and_its_module(
    run: Path, tmp_path: Path, stage: str
) -> None:
    tensor = faults.plant(run / stage / "model.onnx", tmp_path / "spoiled.onnx", "Conv", 8, faults.scale_filter)
    found = blamed(run, **{stage: tmp_path / "spoiled.onnx"})
    assert found.finding is not None
    assert found.finding.stage == stage
    layers = next(comparison.layers for comparison in found.comparisons if comparison.stage == stage)
    spoiled = next(layer.module for layer in layers if layer.tensor == tensor)
    block = spoiled.rpartition(".")[0]
    assert spoiled
    assert spoiled in (found.finding.module, found.finding.module.rpartition(".")[0]) or block in found.finding.module


def test_an_fp16_graph_of_another_form_is_traced_too(tmp_path: Path) -> None:
    parted = walked(tmp_path / "parted", "shufflenet_g3_x0_25", "parted")
    fewest = walked(tmp_path / "fewest", "shufflenet_g3_x0_25", "fewest")
    half = fewest / "fp16" / "model.onnx"
    shutil.copy(fewest / "rewrite" / "model.onnx", parted / "rewrite" / "engine.onnx")
    assert blamed(parted, halve=half).finding is None
    faults.plant(half, tmp_path / "spoiled.onnx", "Conv", 8, faults.scale_filter)
    found = blamed(parted, halve=tmp_path / "spoiled.onnx").finding
    assert found is not None
    assert found.stage == "fp16"
    assert found.module.startswith("stage2.2.")
