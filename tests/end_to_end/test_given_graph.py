"""Given ONNX files through the whole pipeline; each is compared with the file itself by ONNX Runtime alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from deploytool import export
from deploytool.api import Run
from deploytool.backends import onnxruntime as ort_backend
from deploytool.device import environment, probe, verify
from deploytool.device.candidates import Tier
from deploytool.errors import BadInput, StageFailed
from deploytool.loading import catalog
from deploytool.pipeline import runner
from deploytool.results.report import Baseline
from deploytool.spec import Stage
from tests import engines, given_graphs
from tests.conftest import QUICK, TINY

Arrays = dict[str, npt.NDArray[Any]]


def run_file(path: Path, inputs: Arrays) -> Arrays:
    """The outputs of a file in ONNX Runtime by name: nothing here is of deploytool."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def run_as_it_says(path: Path, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The first output of a file in ONNX Runtime, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    result: npt.NDArray[Any] = onnxruntime.InferenceSession(str(path), options).run(None, {"x": x})[0]
    return result


def export_file(graph: onnx.ModelProto, tmp_path: Path, **options: Any) -> Run:
    path = tmp_path / "net.onnx"
    onnx.save(graph, path)
    run = export(str(path), quick=True, out=tmp_path / "run", **options)
    assert run.check().passed
    assert run.script is None
    return run


def assert_close(run: Run, expected: Arrays, inputs: Arrays, *, fp32: float = 1e-5) -> None:
    """The FP32 and FP16 graphs of a run give the answers of the file."""
    assert run.onnx is not None
    assert run.fp16 is not None
    for path, tolerance in ((run.onnx, fp32), (run.fp16, 4e-3)):
        actual = run_file(path, inputs)
        assert list(actual) == list(expected)
        for name, array in expected.items():
            difference = np.abs(actual[name].astype(np.float64) - array).max()
            assert difference <= tolerance * max(1.0, np.abs(array).max()), (path.parent.name, name)


@pytest.mark.parametrize("opset", [11, 21])
def test_a_classifier_of_any_opset_is_exported_and_equals_the_file(opset: int, tmp_path: Path) -> None:
    run = export_file(given_graphs.conv(opset), tmp_path)
    inputs: Arrays = {"image": np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)}
    assert_close(run, run_file(tmp_path / "net.onnx", inputs), inputs)
    assert run.onnx is not None
    written = onnx.load(run.onnx)
    assert written.opset_import[0].version == max(18, opset)
    converted = [line for line in run.report.remarks if line.startswith("export: converted")]
    assert converted == ([f"export: converted from opset {opset} to 18, with the same answers"] if opset < 18 else [])


def test_token_ids_stay_in_the_table_and_lengths_stay_dynamic(tmp_path: Path) -> None:
    run = export_file(given_graphs.tokens(), tmp_path, sizes={"seq": (2, 4, 8)})
    rng = np.random.default_rng(1)
    for length in (3, 7):
        inputs = {"ids": rng.integers(0, 50, (2, length)), "attention_mask": np.ones((2, length), np.int64)}
        assert_close(run, run_file(tmp_path / "net.onnx", inputs), inputs)


def test_a_scalar_that_is_an_input_and_an_output_is_one_case(tmp_path: Path) -> None:
    run = export_file(given_graphs.passed_through(), tmp_path, to="onnx")
    x, rate = np.ones((1, 8), np.float32), np.array([0.5], np.float32)
    assert run.onnx is not None
    answers = run_file(run.onnx, {"x": x, "rate": rate})
    expected = run_file(tmp_path / "net.onnx", {"x": x, "rate": np.array(0.5, np.float32)})
    np.testing.assert_allclose(answers["y"], expected["y"], rtol=1e-5)
    assert answers["rate_2"].tolist() == [0.5]
    assert answers["x_2"].tolist() == x.tolist()


def test_a_batch_elsewhere_and_a_scalar_become_a_batch_first_with_one_remark_each(tmp_path: Path) -> None:
    run = export_file(given_graphs.state(), tmp_path)
    rng = np.random.default_rng(2)
    x, before = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, 4), (2, 1, 4)))
    expected = run_file(tmp_path / "net.onnx", {"x": x, "before": before, "rate": np.array(1)})
    expected["after"] = np.moveaxis(expected["after"], 1, 0)
    assert_close(run, expected, {"x": x, "before": np.moveaxis(before, 1, 0), "rate": np.array([1])})
    remarks = [line for line in run.report.remarks if line.startswith("load: ")]
    assert remarks == [
        "load: net takes one case at a time: rate without a batch axis gets a leading axis of 1",
        "load: the batch becomes the first axis of before (axis 1), after (axis 1)",
    ]


def test_external_data_are_part_of_the_run_and_a_changed_byte_repeats_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(given_graphs.mlp(), path, save_as_external_data=True, location="net.bin", size_threshold=0)
    first = export(str(path), quick=True, out=tmp_path / "run").check()
    assert export(str(path), quick=True, out=tmp_path / "run").check().artifacts[0].fresh is False
    data = bytearray((tmp_path / "net.bin").read_bytes())
    data[3] ^= 0x80  # the sign of the first weight
    (tmp_path / "net.bin").write_bytes(data)
    second = export(str(path), quick=True, out=tmp_path / "run").check()
    assert second.artifacts[0].fresh
    assert second.artifacts[0].digest != first.artifacts[0].digest
    inputs: Arrays = {"x": np.ones((1, 8), np.float32)}
    assert_close(second, run_file(path, inputs), inputs)


def test_speed_is_compared_with_the_file_as_it_was_given(tmp_path: Path) -> None:
    run = export_file(given_graphs.mlp(), tmp_path, seconds=0.1)
    assert run.report.baseline is Baseline.GIVEN
    assert {speed.stage for speed in run.report.speeds} >= {Stage.EXPORT, Stage.FP16}
    assert all(speed.baseline_ms for speed in run.report.speeds)
    assert run.report_html is not None
    page = run.report_html.read_text()
    assert "the given file on ONNX Runtime" in page
    assert "eager PyTorch" not in page


def test_a_first_dimension_that_is_no_batch_is_refused_with_the_option_that_takes_it_as_one_case(
    tmp_path: Path,
) -> None:
    onnx.save(given_graphs.mixing(), tmp_path / "net.onnx")
    with pytest.raises(StageFailed, match="depend on the other cases of its batch of 4") as raised:
        export(str(tmp_path / "net.onnx"), quick=True, out=tmp_path / "run")
    assert raised.value.remedy == "if the first dimension is no batch, take it as one case: --batch 1"
    run = export_file(given_graphs.mixing(), tmp_path, batch=1)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    expected = {"y": run_file(tmp_path / "net.onnx", {"x": x})["y"][np.newaxis]}
    assert_close(run, expected, {"x": x[np.newaxis]})


def test_an_output_of_a_size_that_depends_on_the_data_can_be_left_out(tmp_path: Path) -> None:
    onnx.save(given_graphs.selection(), tmp_path / "net.onnx")
    with pytest.raises(BadInput, match=r"depends on the data: the NonMaxSuppression node 'kept' selects$") as raised:
        export(str(tmp_path / "net.onnx"), quick=True, out=tmp_path / "run")
    assert raised.value.remedy == "select others: --output moved"
    run = export_file(given_graphs.selection(), tmp_path, outputs="moved")
    assert [tensor.name for tensor in onnx.load(run.onnx or "").graph.output] == ["moved"]


@pytest.mark.parametrize(
    ("options", "problem", "remedy"),
    [
        ({}, "leaves open how large these are: seq of ids and attention_mask", "--size seq=SMALLEST:TYPICAL:LARGEST"),
        ({"exporter": "dynamo"}, "is a graph already, so --exporter does not apply", "leave --exporter out"),
        ({"weights": __file__}, "has its own weights, so --weights does not apply", "leave --weights out"),
        ({"forward": {"flag": True}}, "is a graph, whose only arguments are its inputs", "leave --forward out"),
        ({"arguments": {"width": 2}}, "is a graph, and takes no argument width", "leave --arg out"),
        ({"outputs": "logits", "sizes": {"seq": 4}}, "has no output logits", "its outputs are: hidden"),
    ],
)
def test_an_option_that_a_graph_cannot_have_is_refused(
    options: dict[str, Any], problem: str, remedy: str, tmp_path: Path
) -> None:
    onnx.save(given_graphs.tokens(), tmp_path / "net.onnx")
    with pytest.raises(BadInput) as raised:
        export(str(tmp_path / "net.onnx"), quick=True, out=tmp_path / "run", **options)
    assert problem in str(raised.value)
    assert remedy in raised.value.remedy


def test_the_oldest_runtime_limits_opset_and_ir_version(tmp_path: Path) -> None:
    given = given_graphs.conv(23)
    given.ir_version = 11
    run = export_file(given, tmp_path, floor={"ort": "1.20", "trt": "10.3"})
    assert "export: converted from opset 23 to 20, with the same answers" in run.report.remarks
    for path in (run.onnx, run.fp16):
        written = onnx.load(str(path))
        assert (written.ir_version, written.opset_import[0].version) == (10, 20)
    inputs: Arrays = {"image": np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)}
    assert_close(run, run_file(tmp_path / "net.onnx", inputs), inputs)


def test_an_operator_that_the_oldest_runtime_lacks_is_named(tmp_path: Path) -> None:
    text = given_graphs.CONV.format(opset=20).replace("Relu(a)", "Gelu(a)")
    given = given_graphs.model(text, given_graphs.weights(kernel=(8, 3, 3, 3), bias=(8,), table=(10, 8), shift=(10,)))
    with pytest.raises(StageFailed, match="opset 19 has no operator Gelu, which node") as caught:
        export_file(given, tmp_path, floor={"ort": "1.16"})
    assert "ONNX Runtime 1.16 reads opsets up to 19" in caught.value.remedy


def test_a_stated_opset_that_is_not_reached_is_an_error(tmp_path: Path) -> None:
    text = given_graphs.CONV.format(opset=20).replace("Relu(a)", "Gelu(a)")
    given = given_graphs.model(text, given_graphs.weights(kernel=(8, 3, 3, 3), bias=(8,), table=(10, 8), shift=(10,)))
    with pytest.raises(
        StageFailed, match="--opset 18 is not reached, and the file has opset 20: it cannot be"
    ) as caught:
        export_file(given, tmp_path, opset=18, to="onnx")
    assert "leave --opset out" in caught.value.remedy


def test_the_exported_graph_of_a_model_fed_back_gives_the_same_fp16_graph_byte_for_byte(tmp_path: Path) -> None:
    first = export(TINY, quick=True, out=tmp_path / "first").check()
    file = first.folder / "export" / "model.onnx"
    again = export(str(file), quick=True, resize=32, crop=32, out=tmp_path / "again").check()
    for stage in (Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE, Stage.FP16):
        made = [run.folder / stage / "model.onnx" for run in (first, again)]
        assert made[0].read_bytes() == made[1].read_bytes(), stage


TWELVE = (
    *(f"shufflenet_g{groups}" for groups in (1, 2, 3, 4, 8)),
    *("mixnet_s", "mixnet_m", "mixnet_l", "squeezenet1_0", "squeezenet1_1", "mobilenet_v1", "mobilenet_v1_cifar"),
)


@pytest.mark.sweep
@pytest.mark.parametrize("name", TWELVE)
def test_a_model_of_the_zoo_fed_back_gives_the_same_fp16_graph_and_engine(name: str, tmp_path: Path) -> None:
    first = export(name, quick=True, trt=True, out=tmp_path / "first").check()
    settings = catalog.find(name).preprocessing
    assert settings is not None
    file = str(first.folder / "export" / "model.onnx")
    inputs = {"resize": settings.resize, "crop": settings.crop, "mean": settings.mean, "std": settings.std}
    options: dict[str, Any] = {"quick": True, "trt": True, **inputs}
    again = export(file, out=tmp_path / "again", **options).check()
    assert first.fp16 is not None
    assert again.fp16 is not None
    assert first.fp16.read_bytes() == again.fp16.read_bytes()
    assert engines.content(first.engines[0]) == engines.content(again.engines[0])


def test_an_fp16_file_is_exported_as_the_same_graph_in_fp32(tmp_path: Path) -> None:
    graph = given_graphs.half(given_graphs.conv())
    run = export_file(graph, tmp_path)
    image = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float16)
    expected = run_file(tmp_path / "net.onnx", {"image": image})["scores"].astype(np.float32)
    assert_close(run, {"scores": expected}, {"image": image.astype(np.float32)}, fp32=4e-3)
    (line,) = (line for line in run.report.remarks if "computes in FP16" in line)
    assert line.startswith("load: net computes in FP16: its weights are taken as FP32")


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (given_graphs.quantised, (3, 8)),
        (given_graphs.quantised_by_channel, (3, 8)),
        (given_graphs.recurrent, (3, 6, 4)),
        (given_graphs.repeat, (3, 4)),
    ],
    ids=["qdq", "qdq by channel", "lstm", "loop"],
)
def test_quantised_recurrent_and_looping_graphs_pass(
    make: Callable[[], onnx.ModelProto], shape: tuple[int, ...], tmp_path: Path
) -> None:
    run = export_file(make(), tmp_path)
    inputs: Arrays = {"x": np.random.default_rng(3).standard_normal(shape).astype(np.float32)}
    assert_close(run, run_file(tmp_path / "net.onnx", inputs), inputs)


def test_a_product_with_scales_within_its_sum_is_exported_and_others_are_refused(tmp_path: Path) -> None:
    run = export_file(given_graphs.scaled_along_sums("MatMul"), tmp_path)
    assert run.onnx is not None
    x = np.random.default_rng(5).standard_normal((3, 16)).astype(np.float32)
    expected = run_as_it_says(tmp_path / "net.onnx", x)
    np.testing.assert_allclose(run_file(run.onnx, {"x": x})["y"], expected, atol=1e-5)
    onnx.save(given_graphs.scaled_along_sums("Conv"), tmp_path / "conv.onnx")
    with pytest.raises(BadInput, match="several scales within a sum"):
        export(str(tmp_path / "conv.onnx"), quick=True, out=tmp_path / "refused")


@pytest.mark.parametrize("kind", ["int8", "int8 blocks", "int4 blocks"])
def test_activations_of_quantised_weights_stay_fp32_in_the_run_and_on_a_device(kind: str, tmp_path: Path) -> None:
    """ONNX Runtime rounds them to INT8 otherwise, an error of 0.5 %."""
    run = export_file(given_graphs.weights_only(kind), tmp_path)
    assert run.onnx is not None
    x = np.random.default_rng(5).standard_normal((3, 64)).astype(np.float32)
    expected = run_as_it_says(tmp_path / "net.onnx", x)
    with ort_backend.start(run.onnx) as session:
        np.testing.assert_allclose(session(x=x)["y"], expected, atol=1e-5)
    bundle = runner.extend(Stage.PACK, QUICK, run.folder).path.parent
    checked = verify.check_integrity(bundle)
    prober = partial(probe.probe, folder=bundle, manifest=checked.manifest, seconds=0.0)
    result = verify.verify(checked, replace(environment.detect(), openvino=""), prober)
    assert result.tier is Tier.ORT_CPU
    (tried,) = (each for each in result.tried if each.passed)
    assert tried.trial is not None
    assert tried.trial.check.parity.max_error < 1e-5


def test_both_branches_of_an_if_pass(tmp_path: Path) -> None:
    run = export_file(given_graphs.choice(), tmp_path)
    x = np.random.default_rng(4).standard_normal((1, 4)).astype(np.float32)
    for flag in (True, False):
        expected = run_file(tmp_path / "net.onnx", {"x": x, "flag": np.array(flag)})
        assert_close(run, expected, {"x": x, "flag": np.array([flag])})
