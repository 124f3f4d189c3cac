"""An export with INT8: calibration, both graphs, what judges them, and what the report says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from deploytool import api
from deploytool.backends import openvino
from deploytool.benchmark import eight_bits, quick
from deploytool.bundle.int8 import Why
from deploytool.bundle.manifest import CORNERS_SCHEMA, content_digest, read_manifest
from deploytool.cli import summary
from deploytool.device import verify, worker
from deploytool.device.candidates import Tier
from deploytool.device.worker import Request
from deploytool.errors import BadInput, StageFailed
from deploytool.parity import checks
from deploytool.precision.int8.quantize import quantize
from deploytool.report import html, rows, run_data
from deploytool.results.int8 import Int8
from deploytool.results.int8_forms import Form
from deploytool.results.measure import AGREEMENT, Inferiority
from deploytool.results.report import Report
from deploytool.results.verdict import conclude
from deploytool.spec import Job, Precision, Stage, Status, Verdict
from tests import given_graphs
from tests.conftest import QUICK, TINY, artifacts
from tests.device.ort_cpu import HERE
from tests.int8 import packed
from tests.precision.int8.ranges import measured_ranges

SHAPE = TINY.inputs[0].shape[1:]
FILES = ("int8.onnx", "engine.onnx", *(["openvino.onnx"] if openvino.is_installed() else []))


def cases(count: int, seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, *map(int, SHAPE))).astype(np.float32)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "cases.npz"
    np.savez(path, input=cases(24, 3))
    return path


@pytest.fixture(scope="module")
def run(calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    home = tmp_path_factory.mktemp("int8") / "run"
    return api.export(TINY, quick=True, precision="int8", calibration=calibration, images=12, out=home)


def test_both_graphs_compute_what_the_source_does(run: api.Run) -> None:
    single = onnxruntime.InferenceSession(run.folder / "rewrite" / "model.onnx")
    inputs = {TINY.inputs[0].name: cases(8, 9)}
    (expected,) = single.run(None, inputs)
    for file in FILES:
        path = run.folder / "int8" / file
        (got,) = onnxruntime.InferenceSession(path).run(None, inputs)
        assert 0 < np.abs(got - expected).max() < 0.1 * np.abs(expected).max(), file
        kinds = {node.op_type for node in onnx.load(path).graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_engines_get_symmetric_int8_and_no_bias_in_int32(run: api.Run) -> None:
    graph = onnx.load(run.folder / "int8" / "engine.onnx").graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    dequantised = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    zeros = [constants[node.input[2]] for node in dequantised if len(node.input) > 2]
    assert dequantised
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


def test_agreement_judges_it_without_a_metric(run: api.Run) -> None:
    measures = run.report.measures
    assert measures is not None
    assert (measures.metric, measures.data, measures.images, measures.source) == (AGREEMENT, "", 12, 1.0)
    rows = {artifact.runner: artifact for artifact in measures.artifacts}
    assert {"int8_emulation", "onnxruntime"} <= set(rows)
    assert all(artifact.stage is Stage.INT8 for artifact in measures.artifacts)
    for artifact in rows.values():
        assert artifact.status is Status.MEASURED
        assert artifact.measure is not None
        assert artifact.measure.verdict is not Inferiority.NOT_WORSE, "12 cases prove no agreement of 99 %"
    conclusion = conclude(run.report, run.folder)
    assert conclusion.verdict in (Verdict.PASS_HERE, Verdict.FAIL)


def test_the_report_says_how_it_was_made(run: api.Run) -> None:
    int8 = run.report.int8
    assert int8 is not None
    assert int8.cases == 24
    assert tuple(graph.file for graph in int8.graphs) == FILES
    assert all(graph.of_allowed >= 0.95 and 0 < graph.error < 0.1 for graph in int8.graphs)
    remarks = "\n".join(run.report.remarks)
    assert "int8: 24 calibration cases are few" in remarks
    assert "int8: The calibration data is noise without the structure of the golden cases." in remarks
    page = html.render(run_data.read(run.folder))
    assert "min-max" in page or "mse" in page or "entropy" in page or "percentile" in page
    assert summary.conclusion(run.report, run.folder)
    written = json.loads((run.folder / "validate" / "report.json").read_text())
    assert written["int8"]["graphs"][0]["form"] in ("u8s8", "u8s7", "s8s8")


def test_the_ranges_are_reused(run: api.Run, calibration: Path) -> None:
    again = api.export(TINY, quick=True, precision="int8", calibration=calibration, images=12, out=run.folder)
    assert not any(artifact.fresh for artifact in again.artifacts)


def test_layers_can_be_kept(run: api.Run, calibration: Path, tmp_path: Path) -> None:
    kept = api.export(
        TINY, quick=True, precision="int8", calibration=calibration, images=12, keep="stem", out=tmp_path / "run"
    )
    before, after = _int8(run.report), _int8(kept.report)
    assert after.kept == ("stem",)
    assert after.graphs[0].of_all < before.graphs[0].of_all


def test_an_engine_is_built_from_it_and_its_kernels_are_counted(calibration: Path, tmp_path: Path) -> None:
    built = api.export(
        TINY, quick=True, precision="int8", calibration=calibration, images=4, targets="rtx40", out=tmp_path / "run"
    )
    engines = {engine.precision: engine for engine in built.report.engines}
    int8, half = engines[Precision.INT8], engines[Precision.FP16]
    assert (int8.file, half.file) == ("int8_model.plan", "model.plan")
    assert (tmp_path / "run" / "build" / int8.file).stat().st_size == int8.bytes
    assert int8.kernels
    assert half.kernels
    (remark,) = (line for line in built.report.remarks if line.startswith("build: int8_model.plan"))
    assert re.search(
        rf"lists (\d+) of \1 INT8 nodes as INT8 kernels, and {int8.kernels} kernels, {half.kernels} for", remark
    )
    measures = built.report.measures
    assert measures is not None
    (row,) = (artifact for artifact in measures.artifacts if artifact.stage is Stage.BUILD)
    assert (row.file, row.status, row.measure) == ("int8_model.plan", Status.BUILT_NOT_RUN, None)
    assert "int8_model.plan" not in {comparison.file for comparison in built.report.comparisons}


def test_a_given_graph_in_a_form_that_tensorrt_refuses_is_refused_in_one_line(tmp_path: Path) -> None:
    """Its zero points are not 0, as ONNX Runtime's quantiser writes them for CPUs."""
    graph, path = given_graphs.quantised(), tmp_path / "given.onnx"
    (zero,) = (table for table in graph.graph.initializer if table.name == "zero")
    zero.CopyFrom(onnx.numpy_helper.from_array(np.array(3, np.int8), "zero"))
    onnx.save(graph, path)
    with pytest.raises(StageFailed, match="QuantizeLinear_0 has a zero point that is not 0"):
        api.export(str(path), quick=True, images=4, targets="rtx40", out=tmp_path / "run")


def test_no_int8_engine_is_built_where_its_last_layer_has_no_kernel(calibration: Path, tmp_path: Path) -> None:
    """TensorRT-RTX refuses a GEMM with an FP32 result for compute capability 7.5."""
    built = api.export(
        TINY, quick=True, precision="int8", calibration=calibration, images=4, targets="rtx20", out=tmp_path / "run"
    )
    assert [engine.precision for engine in built.report.engines] == [Precision.FP16]
    (remark,) = (line for line in built.report.remarks if line.startswith("build: int8_"))
    assert "is not built for compute capability 7.5" in remark


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph in QDQ form as training with quantisation leaves it."""
    path = tmp_path_factory.mktemp("given") / "trained.onnx"
    graph = given_graphs.conv()
    inputs = {"image": np.random.default_rng(3).normal(size=(8, 3, 16, 16)).astype(np.float32)}
    onnx.save(quantize(graph, measured_ranges(graph, inputs), Form.U8S7), path)
    return path


def test_a_given_quantised_graph_is_judged_as_it_is(trained: Path, tmp_path: Path) -> None:
    run = api.export(str(trained), quick=True, images=8, precision="int8", out=tmp_path / "run")
    assert not (run.folder / "calibrate").exists()
    int8, measures = _int8(run.report), run.report.measures
    (graph,) = int8.graphs
    assert int8.as_given
    assert (graph.form, graph.of_allowed, graph.in_kernels["ONNX Runtime"]) == ("as given", 1.0, 1.0)
    assert 0 < graph.error < 1
    assert [each.tensor for each in int8.noisiest if each.clipped > 0.01] == ["c", "d", "b"]
    assert measures is not None
    assert measures.metric == AGREEMENT
    assert {"int8_emulation", "onnxruntime"} <= {artifact.runner for artifact in measures.artifacts}
    assert all(artifact.measure is not None for artifact in measures.artifacts)
    assert "came with its Q/DQ nodes" in html.render(run_data.read(run.folder))
    assert any(line.startswith("int8: TensorRT does not take the graph") for line in run.report.remarks)


@pytest.mark.parametrize(
    ("nodes", "problem", "remedy"),
    [
        (
            "q = QuantizeLinear(x, s, z) m = QLinearMatMul(q, s, z, w, s, o, s, z) y = DequantizeLinear(m, s, z)",
            "is quantised with integer operators, such as QLinearMatMul, and not with Q/DQ nodes",
            "QuantFormat.QDQ",
        ),
        (
            "d = DequantizeLinear(w, s, o) r = Relu(d) y = MatMul(x, r)",
            "has Q/DQ nodes at its input and its weights",
            "leave out",
        ),
    ],
    ids=["integer operators", "weights alone"],
)
def test_a_given_graph_without_a_product_between_its_nodes_is_not_judged(
    nodes: str, problem: str, remedy: str, tmp_path: Path
) -> None:
    values = "s = Constant<value = float {0.05}>() z = Constant<value = uint8 {100}>() o = Constant<value = int8 {0}>()"
    text = f'<ir_version: 8, opset_import: ["": 18]> g (float[batch,8] x) => (float[batch,4] y) {{ {values} {nodes} }}'
    graph = onnx.parser.parse_model(text)
    codes = np.random.default_rng(0).integers(-100, 100, (8, 4)).astype(np.int8)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(codes, "w"))
    onnx.save(graph, tmp_path / "net.onnx")
    with pytest.raises(StageFailed, match=problem) as caught:
        api.export(str(tmp_path / "net.onnx"), quick=True, precision="int8", task="embed", out=tmp_path / "run")
    assert remedy in caught.value.remedy


def test_a_given_quantised_graph_has_its_own_ranges(trained: Path, calibration: Path) -> None:
    with pytest.raises(BadInput, match="is quantised already and is judged as it is, so --calibration does not apply"):
        api.export(str(trained), quick=True, precision="int8", calibration=calibration)


def test_the_search_keeps_nothing_where_decisions_hold(calibration: Path, tmp_path: Path) -> None:
    found = api.export(
        TINY, quick=True, precision="int8", calibration=calibration, images=4, keep="auto", out=tmp_path / "run"
    )
    assert "int8: kept out of INT8: nothing (1 evaluation on 24 cases)" in found.report.remarks
    assert _int8(found.report).kept == ()


def test_a_bundle_has_it_where_it_is_faster_and_not_worse(run: api.Run, tmp_path: Path) -> None:
    bundle = packed.acceptable(artifacts(run.folder), tmp_path / "packed")
    manifest = read_manifest(bundle)
    assert manifest.schema == CORNERS_SCHEMA
    paths = {graph.path: graph.precision for graph in manifest.graphs}
    assert paths["models/tiny_int8/1/model.onnx"] == paths["engines/int8.onnx"] == Precision.INT8
    for_any = "models/tiny_int8/1/model.onnx"
    for_openvino = "openvino/int8.onnx" if "openvino.onnx" in FILES else for_any
    assert {name: each.path for name, each in manifest.int8_for.items()} == {"ort": for_any, "openvino": for_openvino}
    assert (bundle / "models" / "tiny_int8" / "config.pbtxt").read_text().startswith('name: "tiny_int8"')
    here = replace(HERE, features=("avx512_vnni",))  # whatever the form of this machine is
    checked = verify.check_integrity(bundle)
    int8, single = (each for each in verify.run_candidates(checked, here) if each.tier is Tier.ORT_CPU)
    assert (int8.is_int8, single.is_int8) == (True, False)
    for candidate in (int8, single):
        trial = worker._try(Request("try", str(bundle), manifest, candidate, "")).trial
        assert trial is not None
        assert not trial.check.broken
    again = packed.write(artifacts(run.folder), tmp_path / "again", *packed.acceptable_rows(slower=True))
    assert content_digest(read_manifest(again)) == content_digest(manifest), "speeds are no content"


def test_a_bundle_has_fp32_alone_where_it_is_not_decided(run: api.Run, tmp_path: Path) -> None:
    measures = run.report.measures
    assert measures is not None
    bundle = packed.write(artifacts(run.folder), tmp_path / "packed", measures.artifacts, [])
    manifest = read_manifest(bundle)
    assert {graph.precision for graph in manifest.graphs} == {Precision.FP32, Precision.FP16}
    assert not manifest.int8
    assert manifest.int8_for["ort"].why in (Why.NOT_DECIDED, Why.WORSE)
    assert manifest.schema == CORNERS_SCHEMA


def test_its_gain_in_a_runtime_is_that_over_the_fp32_graph_there(run: api.Run) -> None:
    given, job = artifacts(run.folder), Job(TINY, replace(QUICK, seconds=0.2))
    steps = checks.graph_comparisons("cpu", job, given) + eight_bits.with_fp32(given, "cpu")
    weights, inputs = given.source().weights, given.golden().inputs
    timed = quick.measure(weights, steps, inputs, job, "cpu")[0]
    speeds = {each.runner: each for each in timed if each.stage is Stage.INT8}
    ort = speeds["onnxruntime"]
    assert ort.own_gain == ort.gain
    assert ort.gain is not None
    assert ort.gain.low <= ort.gain.value <= ort.gain.high
    if there := speeds.get("openvino"):
        assert there.file == "openvino.onnx"
        assert there.own_gain is not None
        assert there.own_gain != there.gain


def _int8(report: Report) -> Int8:
    assert report.int8 is not None
    return report.int8


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"precision": "int8"}, "needs inputs to measure the ranges of values on"),
        ({"calibration": "x.npz"}, "--calibration is for INT8 and FP8, which are not made"),
        ({"keep": "stem"}, "--keep is for INT8 and FP8, which are not made"),
        ({"precision": "int4"}, "there is no precision 'int4' to make"),
        ({"precision": "int8", "calibration": "missing.npz"}, "there is no file missing.npz"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(words: dict[str, str], problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        api.export(TINY, quick=True, **words)  # type: ignore[arg-type]


def test_each_row_of_the_metric_has_a_name_of_its_own(run: api.Run) -> None:
    assert run.report.measures is not None
    names = [rows.label(artifact) for artifact in run.report.measures.artifacts]
    assert len(set(names)) == len(names)
