"""Runs a sample of the sweep's architectures, and checks that the FP64 comparison distinguishes wrong from right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.foreign import sweep, truth
from tests.foreign.cells import Agreement, Outcome, Result, classify, measure
from tests.foreign.table import EXPORTERS, NET_TABLE, Cell, Expected, cells

SAMPLE = ("inception", "excite", "unet", "siamese", "mobile", "wavenet", "gru", "slices", "stateful")
OFTEN = ("excite", "unet", "siamese", "gru", "stateful")  # `make test-all` runs all of them
BY_NAME = {net.factory: net for net in NET_TABLE}


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.sweep) for name in SAMPLE]
)
def test_the_verdict_agrees_with_the_reference(name: str, tmp_path: Path) -> None:
    result = measure(Cell(BY_NAME[name], 0, 0, "torchscript"), tmp_path)
    assert result.agreement == Agreement.AGREES.value, result
    passes = BY_NAME[name].expected is Expected.MEASURED
    assert (result.outcome == Outcome.PASS.value) is passes, result


def test_every_architecture_runs_at_both_sizes() -> None:
    names = [cell.name for cell in cells()]
    assert len(set(names)) == len(names) == len(NET_TABLE) * 3 * 2 * len(EXPORTERS)
    assert len(NET_TABLE) >= 60
    for net in NET_TABLE:
        for size in (0, 1):
            net_inputs = truth.make_inputs(net.tensors(size), 0)
            module = truth.network(net.path, net.factory, size, 0)
            assert list(truth.flatten(module(*map(truth.tensor, net_inputs["fresh"]))))


def export_net(name: str, folder: Path) -> tuple[Path, dict[str, list[truth.Array]], dict[str, list[truth.Array]]]:
    """The file of a graph exported by torch.onnx, inputs and their reference outputs."""
    net = BY_NAME[name]
    module, inputs = truth.network(net.path, net.factory, 0, 0), truth.make_inputs(net.tensors(0), 0)
    assert truth.export_onnx(module, inputs, "torchscript", folder / "model.onnx") == ""
    return folder / "model.onnx", inputs, truth.expected(module, inputs)


@pytest.mark.parametrize("name", ["residual", "yolo_together", "label_map"])
def test_the_comparison_detects_a_corrupt_weight(name: str, tmp_path: Path) -> None:
    path, inputs, reference = export_net(name, tmp_path)
    correct = truth.judge(path, inputs, reference)
    assert correct.error < 1e-5
    assert correct.changed < 0.001
    model = onnx.load(path)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.1), weight.name))
    onnx.save(model, path)
    corrupt = truth.judge(path, inputs, reference)
    assert corrupt.error > 1e-3 or corrupt.changed > 0.01


def test_scores_and_boxes_are_separate_parts() -> None:
    rng = np.random.default_rng(0)
    boxes, scores = 300 * rng.random((6, 20, 4)), rng.random((6, 20, 3))
    reference = {name: [np.concatenate([boxes, scores], -1)] for name in ("fresh", "fresh again")}
    shifted = {name: [np.concatenate([boxes, scores + 0.1], -1)] for name in reference}
    assert truth.compare("file", shifted, reference, fp16=True).error == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("seed", range(3))
def test_roundings_equal_those_of_the_reference_evaluator(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = numpy_helper.from_array((0.2 * rng.standard_normal((40, 30))).astype(np.float16), "w")
    nodes = [
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["x16", "w"], ["product"]),
        helper.make_node("Sigmoid", ["product"], ["gate"]),
        helper.make_node("Mul", ["product", "gate"], ["swish"]),
        helper.make_node("Cast", ["swish"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "swish",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 30])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    x = rng.standard_normal((5, 40)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    (output,) = truth.run(truth.emulate_fp16(model), {"fresh": [x]}, fp16=True)["fresh"]
    assert np.array_equal(output, output.astype(np.float16))
    assert np.abs(output - expected).max() < 4 * 2**-11 * np.abs(expected).max()


def deviations(error: float, *, fp16: bool = False, changed: float = 0.0) -> list[truth.Deviation]:
    return [truth.Deviation("file", fp16, error, "", changed)]


@pytest.mark.parametrize(
    ("expected", "outcome", "files", "agreement"),
    [
        (Expected.MEASURED, Outcome.PASS, deviations(3e-5), Agreement.AGREES),
        (Expected.MEASURED, Outcome.PASS, deviations(5e-5), Agreement.FALSE_PASS),
        (Expected.MEASURED, Outcome.PASS, deviations(float("inf")), Agreement.FALSE_PASS),
        (Expected.MEASURED, Outcome.PASS, deviations(5e-2, fp16=True), Agreement.FALSE_PASS),
        (Expected.MEASURED, Outcome.PASS, deviations(0.0, changed=0.2), Agreement.FALSE_PASS),
        (Expected.MEASURED, Outcome.FAIL, deviations(4e-6), Agreement.FALSE_REFUSAL),
        (Expected.MEASURED, Outcome.FAIL, deviations(6e-6), Agreement.BETWEEN),
        (Expected.MEASURED, Outcome.REFUSED, deviations(float("inf")), Agreement.AGREES),
        (Expected.MEASURED, Outcome.UNCLEAR, deviations(1.0), Agreement.UNCLEAR),
        (Expected.REFUSED, Outcome.PASS, deviations(0.0), Agreement.FALSE_PASS),
        (Expected.REFUSED, Outcome.REFUSED, deviations(0.0), Agreement.AGREES),
        (Expected.REFUSED, Outcome.LATE, deviations(0.0), Agreement.UNCLEAR),
    ],
)
def test_classification_of_outcomes(
    expected: Expected, outcome: Outcome, files: list[truth.Deviation], agreement: Agreement
) -> None:
    assert classify(expected, outcome, 0.0, files, {"fp32": 1e-5, "fp16": 0.5}) is agreement


def test_a_sweep_resumes_and_stops_cells_that_hang(tmp_path: Path) -> None:
    done = Result("gru/0/0/torchscript", "pass", "agrees", "", 1.0)
    (tmp_path / "r.jsonl").write_text(sweep.to_json(done) + "\n" + sweep.to_json(done)[:20])
    assert sweep.read(tmp_path / "r.jsonl") == {done.name: done}
    assert "| gru | 1 | 1 | 0 |" in "\n".join(sweep.table({done.name: done}))
    (late,) = sweep.run_sweep([Cell(BY_NAME["gru"], 0, 0, "torchscript")], 1, 0.2)
    assert (late.outcome, late.agreement) == (Outcome.LATE.value, Agreement.UNCLEAR.value)


def test_the_table_on_the_page_is_replaced_and_the_text_before_it_kept(tmp_path: Path) -> None:
    page, disagreement = tmp_path / "foreign.md", Result("gru/0/0/torchscript", "fail", "false refusal", "snr", 1.0)
    page.write_text(f"# Title\n\nWhy.\n\n{sweep.HEADING}\n\nold\n")
    sweep.write_page({disagreement.name: disagreement}, page)
    text = page.read_text()
    assert text.startswith(f"# Title\n\nWhy.\n\n{sweep.HEADING}\n")
    assert "old" not in text
    assert "- `gru/0/0/torchscript`: fail, false refusal: snr" in text
    assert "1 exports: 0 agrees, 0 false pass, 1 false refusal" in text
