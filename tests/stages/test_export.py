"""Tests of the export stage: both exporters, the choice between them, and errors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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


@pytest.mark.parametrize("exporter", [*EXPORTERS, "auto"])
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


def damaged(name: str, exported: Callable[..., onnx.ModelProto]) -> Callable[..., onnx.ModelProto]:
    """An exporter whose graph does not hold: wrong everywhere, wrong for a single case, or bound to two cases."""

    def export_damaged(*arguments: Any) -> onnx.ModelProto:
        model = exported(*arguments)
        graph = model.graph
        (last,) = (node for node in graph.node if "logits" in node.output)
        last.output[0] = "right"
        values = {
            "two cases": np.ones((2, 1), np.float32),
            "wrong": np.array(1.1, np.float32),
            "wrong alone": np.array([1.1, 1.0], np.float32),
        }[name]
        graph.initializer.append(onnx.numpy_helper.from_array(values, "factor"))
        if name == "wrong alone":  # the first factor if the batch size is 1, else the second
            one = onnx.numpy_helper.from_array(np.array([1]), "one")
            graph.initializer.append(one)
            graph.node.extend(
                [
                    onnx.helper.make_node("Shape", ["right"], ["size"], start=0, end=1),
                    onnx.helper.make_node("Greater", ["size", "one"], ["several"]),
                    onnx.helper.make_node("Cast", ["several"], ["index"], to=onnx.TensorProto.INT64),
                    onnx.helper.make_node("Gather", ["factor", "index"], ["chosen"]),
                ]
            )
        used = "chosen" if name == "wrong alone" else "factor"
        graph.node.append(onnx.helper.make_node("Mul", ["right", used], ["logits"]))
        return model

    return export_damaged


def damage(monkeypatch: pytest.MonkeyPatch, **kinds: str) -> None:
    """Replaces exporters by damaged ones."""
    for exporter, kind in kinds.items():
        monkeypatch.setitem(export._EXPORTERS, exporter, damaged(kind, export._EXPORTERS[exporter]))


def test_auto_takes_the_graph_of_torchscript_unchanged_and_says_nothing(
    exported: Path, finished: Path, tmp_path: Path
) -> None:
    notes = export.make(Job(TINY, options("auto")), tmp_path / "model.onnx", artifacts(finished))
    assert (notes["exporter"], notes["remarks"]) == ("torchscript", [])
    assert ((tmp_path / "model.onnx").read_bytes() == exported.read_bytes()) is ("torchscript" in str(exported))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("wrong", r"is wrong: against FP64, .*logits.*"),
        ("wrong alone", r"is wrong: against eager, batch size 1, .*logits.*"),
        ("two cases", r"fails: ONNX Runtime .*"),
    ],
)
def test_auto_takes_dynamo_if_the_graph_of_torchscript_does_not_hold(
    kind: str, reason: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(monkeypatch, torchscript=kind)
    notes = export.make(Job(TINY, options("auto")), tmp_path / "model.onnx", artifacts(finished))
    assert notes["exporter"] == "dynamo"
    (remark,) = serde.decode(tuple[str, ...], notes["remarks"])
    why = f"the graph of the torchscript exporter {reason}"
    assert re.fullmatch(f"used the graph of the dynamo exporter: {why}", remark)


def test_auto_keeps_the_first_graph_for_the_report_if_neither_holds(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(monkeypatch, torchscript="wrong", dynamo="wrong alone")
    notes = export.make(Job(TINY, options("auto")), tmp_path / "model.onnx", artifacts(finished))
    assert notes["exporter"] == "torchscript"
    (remark,) = serde.decode(tuple[str, ...], notes["remarks"])
    first, second = (f"the graph of the {exporter} exporter is wrong: against" for exporter in EXPORTERS)
    assert re.fullmatch(rf"no exporter's graph holds: {first} FP64, .*; {second} eager, batch size 1, .*", remark)


def test_a_pinned_exporter_is_not_replaced(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(monkeypatch, torchscript="wrong")
    notes = export.make(Job(TINY, options("torchscript")), tmp_path / "model.onnx", artifacts(finished))
    assert (notes["exporter"], notes["remarks"]) == ("torchscript", [])


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


def test_the_graph_is_fitted_to_the_oldest_runtime(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = export._EXPORTERS["torchscript"]

    def export_newer(*arguments: Any) -> onnx.ModelProto:
        model = exported(*arguments)
        model.ir_version = 11
        return model

    monkeypatch.setitem(export._EXPORTERS, "torchscript", export_newer)
    stated = dataclasses.replace(options("auto"), floor={"ort": "1.16"})
    notes = export.make(Job(TINY, stated), tmp_path / "model.onnx", artifacts(finished))
    assert (notes["exporter"], notes["floor"]) == ("torchscript", {"ort": "1.16"})
    assert onnx.load(tmp_path / "model.onnx").ir_version == 9
