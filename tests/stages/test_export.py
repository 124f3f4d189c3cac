"""Tests of the export stage: both exporters, the choice between them, and errors."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from deploytool import serde
from deploytool.backends import onnxruntime
from deploytool.cli import params
from deploytool.data import golden
from deploytool.errors import StageFailed
from deploytool.loading import catalog
from deploytool.parity import metrics
from deploytool.parity.replay import replay
from deploytool.pipeline import runner
from deploytool.spec import Job, Options, Stage
from deploytool.stages import export
from tests.conftest import QUICK, ROOT, TINY, artifacts

EXPORTERS = ("torchscript", "dynamo")
OWN = ROOT / "tests" / "user_models"
RECIPE = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT)


@pytest.fixture(scope="module", params=EXPORTERS)
def exported(request: pytest.FixtureRequest, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param) / "model.onnx"
    notes = export.make(Job(TINY, options(request.param)), out, artifacts(finished))
    assert notes["exporter"] == request.param
    return out


def options(exporter: str) -> Options:
    return dataclasses.replace(QUICK, exporter=exporter)


def test_the_graph_is_a_single_file_with_stable_names(exported: Path) -> None:
    graph = onnx.load(exported, load_external_data=False)
    onnx.checker.check_model(graph, full_check=True)
    assert [path.name for path in exported.parent.iterdir()] == ["model.onnx"]
    assert [value.name for value in (*graph.graph.input, *graph.graph.output)] == ["input", "logits"]
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    ]
    assert shapes == [["batch", 3, 32, 32], ["batch", 10]]
    assert graph.opset_import[0].version == 18
    assert graph.ir_version <= 10


def test_the_file_contains_no_path_of_this_machine(exported: Path) -> None:
    content = exported.read_bytes()
    for text in (str(ROOT), "site-packages", "tiny.py", ".forward"):
        assert text.encode() not in content


def test_nodes_are_named_by_their_module(exported: Path) -> None:
    names = [node.name for node in onnx.load(exported).graph.node]
    assert len(names) == len(set(names))
    assert any(name.startswith("/depthwise/") for name in names)
    assert any(name.startswith("/classifier/") for name in names)


def test_the_graph_is_correct_at_any_batch_size(exported: Path, finished: Path) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    tolerance = metrics.tolerances(sample.noise, {}).fp32
    with onnxruntime.start(exported) as session:
        for size in (1, 3, 4):
            inputs = {name: array[:size] for name, array in sample.inputs.items()}
            expected = {name: array[:size] for name, array in sample.reference.items()}
            assert not metrics.check(replay(session, inputs), expected, "FP64", tolerance).broken


def test_two_exports_write_identical_files(exported: Path, finished: Path, tmp_path: Path) -> None:
    exporter = "dynamo" if "dynamo" in str(exported) else "torchscript"
    export.make(Job(TINY, options(exporter)), tmp_path / "model.onnx", artifacts(finished))
    assert (tmp_path / "model.onnx").read_bytes() == exported.read_bytes()


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_exporters_print_nothing(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], exporter: str
) -> None:
    export.make(Job(TINY, options(exporter)), tmp_path / "model.onnx", artifacts(finished))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("exporter", [*EXPORTERS, "default"])
def test_the_error_has_both_reasons_and_the_operator_if_both_exporters_reject_a_model(
    exporter: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no symbolic for aten::strange\nlong trace")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(StageFailed, match=r"cannot convert the operator strange here") as caught:
        export.make(Job(TINY, options(exporter)), tmp_path / "model.onnx", artifacts(finished))
    assert "torchscript: no symbolic for aten::strange" in str(caught.value)
    assert "dynamo: no symbolic for aten::strange" in str(caught.value)
    assert "--exporter" not in caught.value.remedy
    assert not (tmp_path / "model.onnx").exists()


def test_auto_keeps_the_graph_of_the_better_exporter_unchanged(exported: Path, finished: Path, tmp_path: Path) -> None:
    notes = export.make(Job(TINY, options("auto")), tmp_path / "model.onnx", artifacts(finished))
    assert notes["exporter"] == "dynamo"
    if "dynamo" in str(exported):
        assert (tmp_path / "model.onnx").read_bytes() == exported.read_bytes()
    (remark,) = serde.decode(tuple[str, ...], notes["remarks"])
    figures = r"\d+ operations, error \d\.\de-0[678]"
    why = "the graph of the torchscript exporter is as accurate and has more operations"
    assert re.fullmatch(rf"kept the graph of the dynamo exporter \({figures}\): {why} \({figures}\)", remark)
    facts = {fact["exporter"]: fact for fact in serde.decode(tuple[dict[str, Any], ...], notes["candidates"])}
    assert list(facts) == list(EXPORTERS)
    assert [fact["verdict"] for fact in facts.values()] == ["held", "kept"]
    assert all(0 < fact["max_error"] < 1e-6 and fact["nodes"] > 10 for fact in facts.values())


def candidate(exporter: str, max_error: float, operations: int, problem: str = "") -> export._Candidate:
    nodes = [onnx.helper.make_node("Relu", ["a"], ["b"])] * operations
    free = [onnx.helper.make_node("Constant", [], ["c"], value_float=1.0)] * (50 - operations)
    return export._Candidate(exporter, onnx.ModelProto(graph=onnx.GraphProto(node=nodes + free)), max_error, problem)


@pytest.mark.parametrize(
    ("first", "second", "kept", "reason"),
    [
        ((2e-7, 20), (2e-7, 20), 0, "is no better"),
        ((2e-7, 20), (2e-7, 19), 1, "is as accurate and has more operations"),
        ((2e-7, 20), (1e-7, 21), 0, "is as accurate and has more operations"),
        ((3e-7, 20), (1e-7, 20), 0, "is no better"),
        ((9e-6, 20), (1e-7, 30), 1, "is less accurate"),
        ((1e-7, 30), (9e-6, 20), 0, "is less accurate"),
        ((8e-6, 20), (9e-6, 10), 0, "is less accurate"),
        ((1e-7, 20, "it is wrong"), (9e-6, 90), 1, "it is wrong"),
        ((9e-6, 90), (1e-7, 20, "it is wrong"), 0, "it is wrong"),
    ],
)
def test_the_smaller_error_is_preferred_and_then_fewer_operations(
    first: tuple[Any, ...], second: tuple[Any, ...], kept: int, reason: str
) -> None:
    candidates = [candidate("torchscript", *first), candidate("dynamo", *second)]
    best, explanation = export._better(candidates, noise=1e-7)
    assert best is candidates[kept]
    assert reason in explanation


def test_the_error_has_all_problems_if_no_graph_is_correct() -> None:
    candidates = [candidate("torchscript", 1.0, 2, "it is wrong"), export._Candidate("dynamo", problem="it is refused")]
    with pytest.raises(StageFailed, match=r"^it is wrong; it is refused$"):
        export._better(candidates, noise=1e-7)


def test_an_exporter_that_rejects_the_model_prints_nothing(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tensors = params.tensors(["16"])
    stages = runner.run(
        Job(catalog.find(f"{OWN}/unsupported.py:Branching", tensors), options("dynamo")), RECIPE, tmp_path
    )
    with pytest.raises(StageFailed, match="dynamo exporter rejects the model: Could not guard on data-dependent"):
        list(stages)
    assert capfd.readouterr() == ("", "")
