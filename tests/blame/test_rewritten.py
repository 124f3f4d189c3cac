"""Blame in rewritten graphs, whose tensors differ from the original: no false finding, and the right module."""

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

pytestmark = pytest.mark.integration

RECIPE = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE, Stage.FP16)
STAGES = (Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE, Stage.FP16)
FORMS = (
    ("shufflenet_g3_x0_25", "partitioned"),
    ("shufflenet_g3_x0_25", "fewest-nodes"),
    ("mixnet_s", "grouped"),
    ("squeezenet1_1", "fewest-nodes"),
)


def blame(run: Path, **faulty: Path) -> Blame:
    graphs = [(stage, faulty.get(stage, run / stage / "model.onnx")) for stage in STAGES]
    return locate(run / Stage.LOAD / "weights.safetensors", run / Stage.GOLDEN / "golden.npz", graphs)[0]


def make_run(home: Path, name: str, recipe: str) -> Path:
    side = 64 if name == "squeezenet1_1" else 32  # at 32, the feature maps of its Fire modules have hardly a pixel
    model = catalog.find(name, [Tensor("input", ("batch", 3, side, side))])
    options = dataclasses.replace(QUICK, rewrite=recipe)
    *_, converted = runner.run(Job(model, options), RECIPE, home)
    assert converted.made_by == "fp16"
    return home


@pytest.fixture(scope="module", params=FORMS, ids="-".join)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("rewritten") / "run", *request.param)


def test_a_correct_rewrite_has_no_finding(run: Path) -> None:
    result = blame(run)
    assert result.finding is None
    for comparison in result.comparisons:
        assert all(layer.error <= layer.noise_floor for layer in comparison.layers if layer.error is not None)
        if comparison.stage in ("rewrite", "fp16"):
            compared = sum(layer.error is not None for layer in comparison.layers)
            assert compared >= 0.3 * len(comparison.layers)
            assert all(layer.module for layer in comparison.layers if layer.op == "Conv")


@pytest.mark.parametrize("stage", ["rewrite", "fp16"])
def test_a_fault_in_a_rewritten_graph_is_located_in_its_module(run: Path, tmp_path: Path, stage: str) -> None:
    tensor = faults.plant(run / stage / "model.onnx", tmp_path / "faulty.onnx", "Conv", 8, faults.scale_filter)
    result = blame(run, **{stage: tmp_path / "faulty.onnx"})
    assert result.finding is not None
    assert result.finding.stage == stage
    layers = next(comparison.layers for comparison in result.comparisons if comparison.stage == stage)
    module, located = next(layer.module for layer in layers if layer.tensor == tensor), result.finding.module
    assert module
    assert module in (located, located.rpartition(".")[0]) or module.rpartition(".")[0] in located


def test_an_fp16_graph_from_another_rewrite_is_traced(tmp_path: Path) -> None:
    partitioned = make_run(tmp_path / "partitioned", "shufflenet_g3_x0_25", "partitioned")
    fewest = make_run(tmp_path / "fewest-nodes", "shufflenet_g3_x0_25", "fewest-nodes")
    half_graph = fewest / "fp16" / "model.onnx"
    shutil.copy(fewest / "rewrite" / "model.onnx", partitioned / "rewrite" / "engine.onnx")
    assert blame(partitioned, fp16=half_graph).finding is None
    faults.plant(half_graph, tmp_path / "faulty.onnx", "Conv", 8, faults.scale_filter)
    finding = blame(partitioned, fp16=tmp_path / "faulty.onnx").finding
    assert finding is not None
    assert finding.stage == "fp16"
    assert finding.module.startswith("stage2.2.")
