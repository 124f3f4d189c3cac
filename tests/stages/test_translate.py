from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
import torch

from deploytool import golden
from deploytool.backends import onnxruntime
from deploytool.errors import StageFailed
from deploytool.measure import parity
from deploytool.measure.replay import replay
from deploytool.spec import Job, Options
from deploytool.stages import translate
from tests.conftest import QUICK, ROOT, TINY, shelf

EXPORTERS = ("torchscript", "dynamo")


@pytest.fixture(scope="module", params=EXPORTERS)
def translated(request: pytest.FixtureRequest, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param) / "graph.onnx"
    notes = translate.make(Job(TINY, options(request.param)), out, shelf(finished))
    assert notes["exporter"] == request.param
    return out


def options(exporter: str) -> Options:
    return dataclasses.replace(QUICK, exporter=exporter)


def test_the_graph_is_one_whole_file_with_stable_names(translated: Path) -> None:
    graph = onnx.load(translated, load_external_data=False)
    onnx.checker.check_model(graph, full_check=True)
    assert [path.name for path in translated.parent.iterdir()] == ["graph.onnx"]
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
    sample = golden.read(finished / "record" / "golden.npz")
    tolerance = parity.tolerances(sample.noise, {}).fp32
    with onnxruntime.start(translated) as session:
        for size in (1, 3, 4):
            inputs = {name: array[:size] for name, array in sample.inputs.items()}
            expected = {name: array[:size] for name, array in sample.reference.items()}
            assert not parity.check(replay(session, inputs), expected, "FP64", tolerance).broken


def test_the_same_model_gives_the_same_bytes(translated: Path, finished: Path, tmp_path: Path) -> None:
    exporter = "dynamo" if "dynamo" in str(translated) else "torchscript"
    translate.make(Job(TINY, options(exporter)), tmp_path / "graph.onnx", shelf(finished))
    assert (tmp_path / "graph.onnx").read_bytes() == translated.read_bytes()


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_exporters_say_nothing(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], exporter: str
) -> None:
    translate.make(Job(TINY, options(exporter)), tmp_path / "graph.onnx", shelf(finished))
    assert capfd.readouterr() == ("", "")


def test_a_refused_model_is_named_with_the_other_exporter(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no symbolic for aten::strange\nlong trace")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    for exporter, other in (EXPORTERS, EXPORTERS[::-1]):
        with pytest.raises(
            StageFailed, match=f"the {exporter} exporter refuses the model: no symbolic.*strange$"
        ) as caught:
            translate.make(Job(TINY, options(exporter)), tmp_path / "graph.onnx", shelf(finished))
        assert caught.value.remedy == f"try --exporter {other}"
    assert not (tmp_path / "graph.onnx").exists()
