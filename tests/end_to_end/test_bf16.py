"""An export with BF16: its graph, engine, tolerances and rows, and what leaves no trace in other runs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from deploytool import api
from deploytool.bundle.manifest import read_manifest
from deploytool.cli import summary
from deploytool.data import golden
from deploytool.errors import BadInput
from deploytool.report import html, junit, run_data
from deploytool.results import report, verdict
from deploytool.results.artifact import Kind
from deploytool.results.report import Report
from deploytool.spec import Job, Precision, Source, Stage, Status
from deploytool.stages import metric, validate
from tests import tiny
from tests.conftest import QUICK, TINY, artifacts

EMULATED, CONVERTED = "bf16_emulation", "fp32_compute"
LABELLED = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,16] x) => (float[N,10] scores, int64[N] label)
{ scores = MatMul(x, w) label = ArgMax<axis=1, keepdims=0>(scores) }"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    home = tmp_path_factory.mktemp("bf16") / "run"
    return api.export(TINY, quick=True, precision="bf16", targets="rtx40", pack=True, out=home)


def rows(written: Report) -> dict[str, report.Comparison]:
    return {each.runner: each for each in written.comparisons if each.stage is Stage.BF16}


def test_two_rows_judge_the_graph_by_two_tolerances(run: api.Run) -> None:
    found = rows(run.report)
    assert list(found) == [EMULATED, CONVERTED]
    assert all(row.status is Status.MEASURED and row.checks for row in found.values())
    converted, own = found[CONVERTED].checks[0], found[EMULATED].checks[-1]
    fp32 = next(row for row in run.report.comparisons if row.stage is Stage.REWRITE).checks[-1].tolerance
    assert converted.against == "rewrite with its weights in BF16"
    assert converted.tolerance.max_error == fp32.max_error
    half = next(row for row in run.report.comparisons if row.runner == "fp16_emulation").checks[-1]
    assert 4 * half.tolerance.noise < own.tolerance.noise < 16 * half.tolerance.noise
    assert own.tolerance.max_error == pytest.approx(4 * own.tolerance.noise)
    assert verdict.failed_lines(run.report) == ()


def test_the_error_is_that_of_bf16_in_torch(run: api.Run) -> None:
    sample = golden.read(run.folder / "golden" / "golden.npz")
    torch.manual_seed(0)
    (exact,) = sample.reference.values()
    state = {
        name: torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for name, tensor in _weights(run.folder / "load" / "weights.safetensors").items()
    }
    module = tiny.tiny().eval()
    module.load_state_dict(state, strict=False)
    with torch.inference_mode():
        got = module.bfloat16()(torch.from_numpy(sample.inputs["input"]).bfloat16()).double().numpy()
    errors = np.abs(got - exact).max(axis=1) / np.abs(exact).max(axis=1)
    own = rows(run.report)[EMULATED].checks[-1].parity.max_error
    assert 0.2 * errors.max() < own < 5 * errors.max()


def _weights(path: Path) -> dict[str, TensorProto]:
    from safetensors.numpy import load_file

    return {name: numpy_helper.from_array(array, name) for name, array in load_file(path).items() if array.ndim}


def test_the_graph_is_bf16_between_fp32_inputs_and_outputs(run: api.Run) -> None:
    graph = onnx.load(run.folder / "bf16" / "bf16.onnx")
    assert [entry.version for entry in graph.opset_import if entry.domain == ""] == [22]
    typed = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    assert {value.type.tensor_type.elem_type for value in (*typed.input, *typed.output)} == {TensorProto.FLOAT}
    types = {value.name: value.type.tensor_type.elem_type for value in typed.value_info}
    heavy = [node for node in typed.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert heavy
    assert {types[node.output[0]] for node in heavy} == {TensorProto.BFLOAT16}


def test_the_engine_is_built_from_it_not_run_and_packed_after_that_in_fp16(run: api.Run) -> None:
    engines = {engine.precision: engine for engine in run.report.engines}
    assert {precision: engine.file for precision, engine in engines.items()} == {
        Precision.FP16: "model.plan",
        Precision.BF16: "bf16_model.plan",
    }
    assert all((run.folder / "build" / engine.file).stat().st_size == engine.bytes for engine in engines.values())
    heavy = Counter(node.op_type for node in onnx.load(run.folder / "bf16" / "bf16.onnx").graph.node)
    count = heavy["Conv"] + heavy["Gemm"] + heavy["MatMul"]
    assert engines[Precision.BF16].layers["BF16"] >= count > engines[Precision.FP16].layers.get("BF16", 0)
    assert "HALF" not in engines[Precision.BF16].layers
    states = {row.file: row.status for row in run.report.comparisons if row.stage is Stage.BUILD}
    assert states["bf16_model.plan"] is Status.BUILT_NOT_RUN
    assert run.bundle is not None
    manifest = read_manifest(run.bundle)
    assert [engine.precision for engine in manifest.engines] == [Precision.FP16, Precision.BF16]
    assert manifest.engines[1].file.size == engines[Precision.BF16].bytes
    assert (manifest.schema, set(manifest.tolerances)) == ("deploytool.bundle/6", {"fp32", "fp16", "bf16"})
    assert golden.read(run.bundle / manifest.golden.path).noise.bf16 is not None
    assert manifest.int8_for == {}


def test_terminal_page_and_junit_show_it(run: api.Run) -> None:
    lines = [summary._comparison_row(row, run.folder) for row in run.report.comparisons]
    names = [line[0] for line in lines]
    first = names.index("bf16/bf16.onnx in BF16 arithmetic")
    assert lines[first][1].endswith("KB")
    assert (names[first + 1], lines[first + 1][1]) == ("  as converted", "")
    assert "bf16" in verdict.largest_tolerances(run.report)
    page = html.render(run_data.read(run.folder))
    assert "in BF16 arithmetic" in page
    assert "bf16_model.plan" in page
    assert "in BF16 arithmetic" in junit.text(run.report)


def test_other_stages_and_their_files_are_those_of_a_run_without_it(run: api.Run, tmp_path: Path) -> None:
    home = tmp_path / "run"
    shutil.copytree(run.folder, home)
    again = api.export(TINY, quick=True, targets="rtx40", out=home)
    assert {artifact.made_by for artifact in again.artifacts if artifact.fresh} == {Stage.BUILD, Stage.VALIDATE}
    assert "bf16" not in again.report_json.read_text().lower()
    assert "bf16" not in (home / "build" / "receipt.json").read_text().lower()


@pytest.mark.parametrize(("factor", "broken"), [(1.05, {CONVERTED}), (3.0, {EMULATED, CONVERTED})])
def test_a_wrong_weight_fails(run: api.Run, tmp_path: Path, factor: float, broken: set[str]) -> None:
    shutil.copytree(run.folder / "bf16", tmp_path / "bf16")
    graph = onnx.load(tmp_path / "bf16" / "bf16.onnx")
    weight = max(graph.graph.initializer, key=lambda each: len(each.dims) == 4 and int(np.prod(each.dims)))
    values = numpy_helper.to_array(weight).copy()
    largest = np.unravel_index(np.abs(values.astype(np.float32)).argmax(), values.shape)
    values[largest] = values[largest] * factor
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(graph, tmp_path / "bf16" / "bf16.onnx")
    made = artifacts(run.folder)
    moved = tuple(
        dataclasses.replace(each, path=tmp_path / "bf16" / "bf16.onnx") if each.kind is Kind.BF16_GRAPH else each
        for each in made.artifacts
    )
    job = Job(TINY, dataclasses.replace(QUICK, seconds=0.0))
    validate.make(job, tmp_path / "report.json", dataclasses.replace(made, artifacts=moved))
    written = report.read(tmp_path / "report.json")
    failed = {row.runner for row in written.comparisons if any(check.broken for check in row.checks)}
    assert failed == broken
    assert all(line.startswith("bf16 ") for line in verdict.failed_lines(written))
    assert "deploy the FP16 graph" in verdict.conclude(written, run.folder).next


def test_a_metric_measures_it(run: api.Run) -> None:
    job = Job(TINY, dataclasses.replace(QUICK, metric=Source("top1", "")))
    steps = metric._steps(job, artifacts(run.folder), "cpu")
    assert [step.file for step in steps if step.runner == EMULATED] == ["bf16.onnx"]
    assert not [step for step in steps if step.stage == Stage.BF16 and step.runner != EMULATED]


def test_a_graph_with_labels_has_ties_in_bf16(tmp_path: Path) -> None:
    graph = onnx.parser.parse_model(LABELLED)
    drawn = np.random.default_rng(1).normal(size=(16, 10)).astype(np.float32)
    graph.graph.initializer.append(numpy_helper.from_array(drawn, "w"))
    onnx.save(graph, tmp_path / "model.onnx")
    made = api.export(str(tmp_path / "model.onnx"), quick=True, precision="bf16", out=tmp_path / "run")
    sample = artifacts(made.folder).golden()
    assert set(sample.ties(Precision.BF16)) == {"label"}
    assert sample.noise.bf16 is not None
    assert verdict.failed_lines(made.report) == ()
    receipt = json.loads((made.folder / "golden" / "receipt.json").read_text())
    assert "bf16" not in json.dumps(receipt).lower()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"targets": "rtx40,rtx20"}, "target rtx20: compute capability 7.5 has no BF16, which starts with 8.0"),
        ({"to": "onnx"}, "--precision bf16 is for the FP16 graph, which --to onnx leaves out"),
        ({"floor": {"ort": "1.20"}}, "--precision bf16 needs opset 22, and ONNX Runtime 1.20 reads opsets up to 21"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(words: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=problem):
        api.export(TINY, quick=True, precision="fp16,bf16", out=tmp_path / "run", **words)
    assert not (tmp_path / "run").exists()
