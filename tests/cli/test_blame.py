"""`deploytool blame` on runs with planted faults: the stage, the layer, the document and the failure pack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from deploytool.cli.app import app
from deploytool.errors import BadInput
from deploytool.pipeline import runner, trust
from deploytool.pipeline.recipe import PIPELINE
from deploytool.spec import Job, Options
from tests.blame import faults
from tests.conftest import QUICK, TINY
from tests.stages.test_known_issues import C2F


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["blame", *arguments], env={"COLUMNS": "160"})


def plant_fault(run: Path, stage: str) -> None:
    graph = run / stage / "model.onnx"
    faults.plant(graph, graph, "Conv", 1, faults.scale_filter)


def test_no_graph_of_an_intact_run_deviates(run_copy: Path) -> None:
    done = call(str(run_copy))
    assert done.exit_code == 0
    assert "No graph deviates" in done.stdout
    verdicts = {line.split()[0]: line.split()[2] for line in done.stdout.splitlines() if "e-" in line}
    assert verdicts == dict.fromkeys(("export", "simplify", "rewrite", "fp16"), "pass")


@pytest.mark.parametrize("stage", ["export", "simplify", "rewrite", "fp16"])
def test_a_fault_is_located_and_ends_with_parity_failed(run_copy: Path, stage: str) -> None:
    plant_fault(run_copy, stage)
    done = call(str(run_copy))
    assert done.exit_code == 3
    for text in (
        f"{stage}/model.onnx deviates from",
        "first layer    grouped.0",
        "ONNX node      Conv /grouped/grouped.0",
    ):
        assert text in done.stdout
    assert "input error" in done.stdout
    assert "the file was changed after its stage wrote it" in done.stderr


def test_json_has_every_layer_of_every_graph(run_copy: Path) -> None:
    plant_fault(run_copy, "fp16")
    done = call(str(run_copy), "--json")
    document: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == document["error"]["exit_code"] == 3
    assert document["blame"]["finding"]["module"] == "grouped.0"
    layers_by_stage = {graph["stage"]: graph["layers"] for graph in document["blame"]["comparisons"]}
    assert list(layers_by_stage) == ["export", "simplify", "rewrite", "fp16"]
    for layers in layers_by_stage.values():
        assert [layer["op"] for layer in layers if layer["op"] == "Conv"] == ["Conv"] * 3
        assert all(set(layer) == {"module", "tensor", "node", "op", "error", "noise_floor"} for layer in layers)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    done = call(str(tmp_path))
    assert isinstance(done.exception, BadInput)
    assert "has no run with a graph" in str(done.exception)


@pytest.mark.parametrize("stage", ["export", "simplify", "fp16"])
def test_reduce_writes_a_failure_pack_that_reproduces_the_fault(run_copy: Path, tmp_path: Path, stage: str) -> None:
    plant_fault(run_copy, stage)
    done = call(str(run_copy), "--reduce")
    assert done.exit_code == 3
    script = run_copy / "blame" / "show.py"
    assert f"Failure pack: {script.parent} (1 node); reproduce with: python {script}" in done.stdout
    shown = subprocess.run([sys.executable, "-I", str(script)], cwd="/", capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert "of the largest expected value" in shown.stdout
    assert shown.stdout.endswith("MISMATCH\n")
    assert not list(run_copy.glob(".making-*"))


def test_reduce_of_an_intact_run_writes_no_failure_pack(run_copy: Path) -> None:
    before = set(run_copy.rglob("*"))
    done = call(str(run_copy), "--reduce")
    assert done.exit_code == 0
    assert "Nothing to reduce: no failure pack was written." in done.stdout
    assert set(run_copy.rglob("*")) - before == {run_copy / "blame.json", run_copy / "report.html"}


def test_without_reduce_no_failure_pack_is_written(run_copy: Path) -> None:
    plant_fault(run_copy, "fp16")
    before = set(run_copy.rglob("*"))
    assert "Failure pack" not in call(str(run_copy)).stdout
    assert set(run_copy.rglob("*")) - before == {run_copy / "blame.json", run_copy / "report.html"}


def test_json_has_the_folder_of_the_failure_pack(run_copy: Path) -> None:
    plant_fault(run_copy, "simplify")
    document: dict[str, Any] = json.loads(call(str(run_copy), "--json", "--reduce").stdout)
    assert document["pack"] == str(run_copy / "blame")
    assert json.loads(call(str(run_copy), "--json").stdout)["pack"] is None


def test_a_run_with_a_failure_pack_can_be_exported_again(run_copy: Path, with_engine: Options) -> None:
    plant_fault(run_copy, "simplify")
    call(str(run_copy), "--reduce")
    artifacts = list(runner.run(Job(TINY, with_engine), PIPELINE, run_copy))
    assert {artifact.made_by for artifact in artifacts if artifact.fresh} >= {"simplify"}
    assert (run_copy / "blame" / "show.py").is_file()
    assert call(str(run_copy)).exit_code == 0


def test_a_fault_that_only_a_probe_detects_is_located_and_reduced(tmp_path: Path) -> None:
    recipe = [stage for stage in PIPELINE if stage not in ("torchscript", "build", "validate")]
    list(runner.run(Job(C2F, QUICK), recipe, tmp_path))
    trust.note(tmp_path)
    assert "No graph deviates" in call(str(tmp_path)).stdout
    graph = tmp_path / "fp16" / "model.onnx"
    tensor = faults.plant(graph, graph, "Conv", 4, faults.move_padding)
    done = call(str(tmp_path), "--reduce")
    assert done.exit_code == 3
    assert "fp16/model.onnx deviates from the graph before with its weights in FP16" in done.stdout
    assert f"tensor {tensor}" in done.stdout
    assert "(1 node)" in done.stdout
