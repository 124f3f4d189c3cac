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
ROAD = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT)


@pytest.fixture(scope="module", params=EXPORTERS)
def translated(request: pytest.FixtureRequest, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param) / "model.onnx"
    notes = export.make(Job(TINY, options(request.param)), out, artifacts(finished))
    assert notes["exporter"] == request.param
    return out


def options(exporter: str) -> Options:
    return dataclasses.replace(QUICK, exporter=exporter)


def test_the_graph_is_one_whole_file_with_stable_names(translated: Path) -> None:
    graph = onnx.load(translated, load_external_data=False)
    onnx.checker.check_model(graph, full_check=True)
    assert [path.name for path in translated.parent.iterdir()] == ["model.onnx"]
    assert [value.name for value in (*graph.graph.input, *graph.graph.output)] == ["input", "logits"]
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    ]
    assert shapes == [["batch", 3, 32, 32], ["batch", 10]]
    assert graph.opset_import[0].version == 18
    assert graph.ir_version <= 10


def test_no_path_of_this_machine_is_inside(translated: Path) -> None:
    inside = translated.read_bytes()
    for trace in (str(ROOT), "site-packages", "tiny.py", ".forward"):
        assert trace.encode() not in inside


def test_nodes_are_named_by_their_module(translated: Path) -> None:
    names = [node.name for node in onnx.load(translated).graph.node]
    assert len(names) == len(set(names))
    assert any(name.startswith("/depthwise/") for name in names)
    assert any(name.startswith("/classifier/") for name in names)


def test_it_computes_what_the_model_does_at_any_batch(translated: Path, finished: Path) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    tolerance = metrics.tolerances(sample.noise, {}).fp32
    with onnxruntime.start(translated) as session:
        for size in (1, 3, 4):
            inputs = {name: array[:size] for name, array in sample.inputs.items()}
            expected = {name: array[:size] for name, array in sample.reference.items()}
            assert not metrics.check(replay(session, inputs), expected, "FP64", tolerance).broken


def test_the_same_model_gives_the_same_bytes(translated: Path, finished: Path, tmp_path: Path) -> None:
    exporter = "dynamo" if "dynamo" in str(translated) else "torchscript"
    export.make(Job(TINY, options(exporter)), tmp_path / "model.onnx", artifacts(finished))
    assert (tmp_path / "model.onnx").read_bytes() == translated.read_bytes()


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_exporters_say_nothing(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], exporter: str
) -> None:
    export.make(Job(TINY, options(exporter)), tmp_path / "model.onnx", artifacts(finished))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("exporter", [*EXPORTERS, "default"])
def test_a_model_that_both_refuse_ends_with_both_reasons_and_the_operator(
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


def test_auto_keeps_the_very_graph_its_exporter_makes(translated: Path, finished: Path, tmp_path: Path) -> None:
    notes = export.make(Job(TINY, options("auto")), tmp_path / "model.onnx", artifacts(finished))
    assert notes["exporter"] == "dynamo"
    if "dynamo" in str(translated):
        assert (tmp_path / "model.onnx").read_bytes() == translated.read_bytes()
    (remark,) = serde.decode(tuple[str, ...], notes["remarks"])
    figures = r"\d+ operations, error \d\.\de-0[678]"
    why = "that of the torchscript exporter is as exact and less simple"
    assert re.fullmatch(rf"kept the graph of the dynamo exporter \({figures}\): {why} \({figures}\)", remark)
    facts = {fact["exporter"]: fact for fact in serde.decode(tuple[dict[str, Any], ...], notes["candidates"])}
    assert list(facts) == list(EXPORTERS)
    assert [fact["verdict"] for fact in facts.values()] == ["held", "kept"]
    assert all(0 < fact["max_error"] < 1e-6 and fact["nodes"] > 10 for fact in facts.values())


def candidate(exporter: str, max_error: float, operations: int, why: str = "") -> export._Candidate:
    nodes = [onnx.helper.make_node("Relu", ["a"], ["b"])] * operations
    idle = [onnx.helper.make_node("Constant", [], ["c"], value_float=1.0)] * (50 - operations)
    return export._Candidate(exporter, onnx.ModelProto(graph=onnx.GraphProto(node=nodes + idle)), max_error, why)


@pytest.mark.parametrize(
    ("first", "second", "kept", "why"),
    [
        ((2e-7, 20), (2e-7, 20), 0, "is no better"),
        ((2e-7, 20), (2e-7, 19), 1, "is as exact and less simple"),
        ((2e-7, 20), (1e-7, 21), 0, "is as exact and less simple"),
        ((3e-7, 20), (1e-7, 20), 0, "is no better"),
        ((9e-6, 20), (1e-7, 30), 1, "is less exact"),
        ((1e-7, 30), (9e-6, 20), 0, "is less exact"),
        ((8e-6, 20), (9e-6, 10), 0, "is less exact"),
        ((1e-7, 20, "it is wrong"), (9e-6, 90), 1, "it is wrong"),
        ((9e-6, 90), (1e-7, 20, "it is wrong"), 0, "it is wrong"),
    ],
)
def test_exactness_comes_first_then_few_operations(
    first: tuple[Any, ...], second: tuple[Any, ...], kept: int, why: str
) -> None:
    tried = [candidate("torchscript", *first), candidate("dynamo", *second)]
    best, said = export._better(tried, noise=1e-7)
    assert best is tried[kept]
    assert why in said


def test_where_nothing_holds_every_reason_is_given() -> None:
    tried = [candidate("torchscript", 1.0, 2, "it is wrong"), export._Candidate("dynamo", why="it is refused")]
    with pytest.raises(StageFailed, match=r"^it is wrong; it is refused$"):
        export._better(tried, noise=1e-7)


def test_the_chatter_of_a_refusal_is_kept_off_the_terminal(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tensors = params.tensors(["16"])
    made = runner.run(Job(catalog.find(f"{OWN}/unsupported.py:Branching", tensors), options("dynamo")), ROAD, tmp_path)
    with pytest.raises(StageFailed, match="dynamo exporter refuses the model: Could not guard on data-dependent"):
        list(made)
    assert capfd.readouterr() == ("", "")
