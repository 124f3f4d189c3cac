"""An export with FP8: its graph, engine, rows and remarks, what is refused, and what leaves no trace in other runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from deploytool import api
from deploytool.bundle.manifest import NARROW_SCHEMA, content_digest, read_manifest, schema_of
from deploytool.cli import summary
from deploytool.data import golden
from deploytool.errors import BadInput
from deploytool.report import html, run_data
from deploytool.results.fp8 import Fp8
from deploytool.results.int8_forms import Form
from deploytool.results.measure import AGREEMENT, Difference, Inferiority, Measure, MeasuredArtifact
from deploytool.results.quantization import TensorKind
from deploytool.results.report import Report
from deploytool.spec import Precision, Stage, Status
from tests import given_graphs
from tests.conftest import TINY, artifacts
from tests.int8 import packed

SHAPE = TINY.inputs[0].shape[1:]


def _fp8(report: Report) -> Fp8:
    assert report.fp8 is not None
    return report.fp8


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "cases.npz"
    cases = np.random.default_rng(3).normal(size=(24, *map(int, SHAPE))).astype(np.float32)
    np.savez(path, input=cases)
    return path


@pytest.fixture(scope="module")
def run(calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    home = tmp_path_factory.mktemp("fp8") / "run"
    return api.export(
        TINY, quick=True, precision="fp8", calibration=calibration, images=12, trt=True, pack=True, out=home
    )


def test_the_graph_has_codes_in_e4m3_between_fp32_inputs_and_outputs(run: api.Run) -> None:
    graph = onnx.load(run.folder / "fp8" / "fp8.onnx").graph
    kinds = {weight.data_type for weight in graph.initializer}
    assert TensorProto.FLOAT8E4M3FN in kinds
    assert TensorProto.INT8 not in kinds
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    assert not (run.folder / "int8").exists()


def test_agreement_judges_it_as_quantised_and_the_engine_is_built_not_run(run: api.Run) -> None:
    measures = run.report.measures
    assert measures is not None
    assert (measures.metric, measures.images, measures.source) == (AGREEMENT, 12, 1.0)
    quantised, engine = measures.artifacts
    assert (quantised.stage, quantised.file, quantised.runner) == (Stage.FP8, "fp8.onnx", "fp8_emulation")
    assert quantised.measure is not None
    assert quantised.measure.verdict is not Inferiority.NOT_WORSE, "12 cases prove no agreement of 99 %"
    assert (engine.stage, engine.file, engine.status) == (Stage.BUILD, "fp8_model.plan", Status.BUILT_NOT_RUN)
    assert engine.measure is None
    assert summary._name(quantised) == "fp8/fp8.onnx as quantised"
    assert "fp8_model.plan" not in {comparison.file for comparison in run.report.comparisons}


def test_the_engine_is_for_the_gpus_that_have_fp8(run: api.Run) -> None:
    engines = {engine.precision: engine for engine in run.report.engines}
    assert set(engines) == {Precision.FP16, Precision.FP8}
    assert (engines[Precision.FP16].capabilities, engines[Precision.FP8].capabilities) == ((), ("8.9", "12.0", "12.1"))
    own, half = engines[Precision.FP8].kernels, engines[Precision.FP16].kernels
    (remark,) = (line for line in run.report.remarks if line.startswith("build: fp8_model.plan"))
    assert re.search(rf"lists (\d+) of \1 FP8 nodes as FP8 kernels, and {own} kernels, {half} for FP16", remark)


def test_the_report_says_how_it_was_made(run: api.Run) -> None:
    made = _fp8(run.report)
    assert made.cases == 24
    assert made.of_allowed == 1.0
    assert 0 < made.error < 0.05
    weights = [each.own_db for each in made.noisiest if each.kind is TensorKind.WEIGHT]
    assert weights
    assert all(each is not None and 30 < each < 34 for each in weights)  # of 3 bits of fraction
    assert "fp8: 24 calibration cases are few" in "\n".join(run.report.remarks)
    page = html.render(run_data.read(run.folder))
    assert '<section id="fp8"' in page
    assert "fp8, as quantised" in page
    assert '<section id="int8"' not in page
    assert f"FP8, {made.summary}" in summary._fp8_lines(run.report)
    assert json.loads((run.folder / "validate" / "report.json").read_text())["fp8"]["file"] == "fp8.onnx"


def test_a_bundle_has_it_where_it_is_not_worse(run: api.Run, tmp_path: Path) -> None:
    measure = Measure(1.0, 1.0, 400, Difference(0.0, -0.005, 0.0), Inferiority.NOT_WORSE)
    good = MeasuredArtifact(Stage.FP8, "fp8.onnx", "fp8_emulation", "cpu", Status.MEASURED, measure)
    bundle = packed.write(artifacts(run.folder), tmp_path / "packed", [good], [])
    manifest = read_manifest(bundle)
    assert schema_of(manifest.graphs, manifest.engines, ()) == NARROW_SCHEMA
    assert {graph.path: graph.precision for graph in manifest.graphs}["engines/fp8.onnx"] == Precision.FP8
    (proof,) = manifest.int8
    assert (proof.form, proof.answers, proof.precision) == (Form.E4M3, "golden/fp8.npz", Precision.FP8)
    half, narrow = manifest.engines
    assert (half.precision, narrow.precision) == (Precision.FP16, Precision.FP8), "FP16 serves until FP8 is faster"
    assert (narrow.capabilities, narrow.io) == (("8.9", "12.0", "12.1"), Precision.FP32)
    answers, cases = golden.read_answers(bundle / proof.answers), manifest.golden.cases
    whole = golden.read_answers(run.folder / "fp8" / "fp8_answers.npz")
    assert {name: len(array) for name, array in answers.items()} == dict.fromkeys(whole, cases)
    again = packed.write(artifacts(run.folder), tmp_path / "again", [good], [])
    assert content_digest(read_manifest(again)) == content_digest(manifest)


def test_a_bundle_has_none_of_it_where_it_is_not_decided(run: api.Run) -> None:
    assert run.bundle is not None
    manifest = read_manifest(run.bundle)
    assert [engine.precision for engine in manifest.engines] == [Precision.FP16]
    assert not {Precision.FP8} & {graph.precision for graph in manifest.graphs}


def test_layers_can_be_kept(run: api.Run, calibration: Path, tmp_path: Path) -> None:
    kept = api.export(
        TINY, quick=True, precision="fp8", calibration=calibration, images=12, keep="stem", out=tmp_path / "run"
    )
    assert _fp8(kept.report).kept == ("stem",)
    assert _fp8(kept.report).of_all < _fp8(run.report).of_all


def test_the_search_keeps_nothing_where_decisions_hold(calibration: Path, tmp_path: Path) -> None:
    found = api.export(
        TINY, quick=True, precision="fp8", calibration=calibration, images=4, keep="auto", out=tmp_path / "run"
    )
    assert "fp8: kept out of FP8: nothing (1 evaluation on 24 cases)" in found.report.remarks
    assert _fp8(found.report).kept == ()


def test_a_run_without_it_has_no_trace_of_it(tmp_path: Path) -> None:
    plain = api.export(TINY, quick=True, images=4, to="onnx", out=tmp_path / "run")
    assert "fp8" not in plain.report_json.read_text().lower()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"precision": "fp8"}, "--precision fp8 needs inputs to measure the ranges of values on"),
        ({"precision": "fp8", "to": "onnx"}, "--precision fp8 is for the FP16 graph"),
        ({"precision": "fp8", "floor": {"ort": "1.17"}}, "--precision fp8 needs opset 21"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(words: dict[str, str], problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        api.export(TINY, quick=True, **words)  # type: ignore[arg-type]


@pytest.mark.parametrize(("targets", "named"), [("rtx30", "rtx30: compute capability 8.6"), ("rtx40,rtx20", "rtx20")])
def test_a_named_target_without_fp8_is_refused(calibration: Path, targets: str, named: str) -> None:
    with pytest.raises(BadInput, match=f"target {named}.* has no FP8, which starts with 8.9"):
        api.export(TINY, quick=True, precision="fp8", calibration=calibration, targets=targets)


def test_a_graph_that_is_quantised_already_is_refused(calibration: Path, tmp_path: Path) -> None:
    path = tmp_path / "given.onnx"
    onnx.save(given_graphs.quantised(), path)
    with pytest.raises(BadInput, match="is quantised already, and FP8 is made from graphs that are not"):
        api.export(str(path), quick=True, precision="fp8", calibration=calibration)
