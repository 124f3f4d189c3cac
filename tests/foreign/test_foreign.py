"""A few architectures of the sweep, in every run of the tests; and whether the truth can tell wrong from right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.foreign import sweep, truth
from tests.foreign.cells import Agreement, Outcome, Result, agrees, measured
from tests.foreign.table import EXPORTERS, NET_TABLE, Cell, Expected, cells

CHOSEN = ("inception", "excite", "unet", "siamese", "mobile", "wavenet", "gru", "slices", "stateful")
BY_NAME = {net.factory: net for net in NET_TABLE}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_verdict_agrees_with_the_truth(name: str, tmp_path: Path) -> None:
    result = measured(Cell(BY_NAME[name], 0, 0, "torchscript"), tmp_path)
    assert result.agreement == Agreement.AGREES.value, result
    passes = BY_NAME[name].expected is Expected.MEASURED
    assert (result.outcome == Outcome.PASS.value) is passes, result


def test_every_architecture_is_there_at_both_sizes() -> None:
    named = [cell.name for cell in cells()]
    assert len(set(named)) == len(named) == len(NET_TABLE) * 3 * 2 * len(EXPORTERS)
    assert len(NET_TABLE) >= 60
    for net in NET_TABLE:
        for size in (0, 1):
            net_inputs = truth.feeds(net.fed(size), 0)
            module = truth.network(net.path, net.factory, size, 0)
            assert list(truth.flat(module(*map(truth.tensor, net_inputs["fresh"]))))


def exported(name: str, folder: Path) -> tuple[Path, dict[str, list[truth.Array]], dict[str, list[truth.Array]]]:
    """A graph of torch.onnx, inputs, and what is right for them."""
    net = BY_NAME[name]
    module, inputs = truth.network(net.path, net.factory, 0, 0), truth.feeds(net.fed(0), 0)
    assert truth.exported(module, inputs, "torchscript", folder / "model.onnx") == ""
    return folder / "model.onnx", inputs, truth.expected(module, inputs)


@pytest.mark.parametrize("name", ["residual", "yolo_together", "label_map"])
def test_the_truth_sees_a_spoiled_weight(name: str, tmp_path: Path) -> None:
    path, inputs, wanted = exported(name, tmp_path)
    sound = truth.judge(path, inputs, wanted)
    assert sound.error < 1e-5
    assert sound.moved < 0.001
    model = onnx.load(path)
    weight = next(each for each in model.graph.initializer if len(each.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.1), weight.name))
    onnx.save(model, path)
    spoiled = truth.judge(path, inputs, wanted)
    assert spoiled.error > 1e-3 or spoiled.moved > 0.01


def test_scores_beside_boxes_are_parts_of_their_own() -> None:
    rng = np.random.default_rng(0)
    boxes, scores = 300 * rng.random((6, 20, 4)), rng.random((6, 20, 3))
    wanted = {name: [np.concatenate([boxes, scores], -1)] for name in ("fresh", "fresh again")}
    moved = {name: [np.concatenate([boxes, scores + 0.1], -1)] for name in wanted}
    assert truth.compared("file", moved, wanted, half=True).error == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("seed", range(3))
def test_the_roundings_are_those_of_numpy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = numpy_helper.from_array((0.2 * rng.standard_normal((40, 30))).astype(np.float16), "w")
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["half", "w"], ["product"]),
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
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
    (given,) = truth.run(truth.rounding(model), {"fresh": [x]}, half=True)["fresh"]
    assert np.array_equal(given, given.astype(np.float16))
    assert np.abs(given - wanted).max() < 4 * 2**-11 * np.abs(wanted).max()


def found(error: float, *, half: bool = False, moved: float = 0.0) -> list[truth.Found]:
    return [truth.Found("file", half, error, "", moved)]


@pytest.mark.parametrize(
    ("expected", "outcome", "files", "agreement"),
    [
        (Expected.MEASURED, Outcome.PASS, found(3e-5), Agreement.AGREES),
        (Expected.MEASURED, Outcome.PASS, found(5e-5), Agreement.FALSE_PASS),
        (Expected.MEASURED, Outcome.PASS, found(float("inf")), Agreement.FALSE_PASS),
        (Expected.MEASURED, Outcome.PASS, found(5e-2, half=True), Agreement.FALSE_PASS),
        (Expected.MEASURED, Outcome.PASS, found(0.0, moved=0.2), Agreement.FALSE_PASS),
        (Expected.MEASURED, Outcome.FAIL, found(4e-6), Agreement.FALSE_REFUSAL),
        (Expected.MEASURED, Outcome.FAIL, found(6e-6), Agreement.BETWEEN),
        (Expected.MEASURED, Outcome.REFUSED, found(float("inf")), Agreement.AGREES),
        (Expected.MEASURED, Outcome.UNCLEAR, found(1.0), Agreement.UNCLEAR),
        (Expected.REFUSED, Outcome.PASS, found(0.0), Agreement.FALSE_PASS),
        (Expected.REFUSED, Outcome.REFUSED, found(0.0), Agreement.AGREES),
        (Expected.REFUSED, Outcome.LATE, found(0.0), Agreement.UNCLEAR),
    ],
)
def test_what_counts_as_agreement(
    expected: Expected, outcome: Outcome, files: list[truth.Found], agreement: Agreement
) -> None:
    assert agrees(expected, outcome, 0.0, files, {"fp32": 1e-5, "fp16": 0.5}) is agreement


def test_a_sweep_goes_on_where_it_was_and_ends_what_hangs(tmp_path: Path) -> None:
    done = Result("gru/0/0/torchscript", "pass", "agrees", "", 1.0)
    (tmp_path / "r.jsonl").write_text(sweep.line(done) + "\n" + sweep.line(done)[:20])
    assert sweep.read(tmp_path / "r.jsonl") == {done.name: done}
    assert "| gru | 1 | 1 | 0 |" in "\n".join(sweep.table({done.name: done}))
    (late,) = sweep.swept([Cell(BY_NAME["gru"], 0, 0, "torchscript")], 1, 0.2)
    assert (late.outcome, late.agreement) == (Outcome.LATE.value, Agreement.UNCLEAR.value)


def test_the_page_gets_the_table_and_keeps_what_stands_before_it(tmp_path: Path) -> None:
    page, wrong = tmp_path / "foreign.md", Result("gru/0/0/torchscript", "fail", "false refusal", "snr", 1.0)
    page.write_text(f"# Title\n\nWhy.\n\n{sweep.HEADING}\n\nold\n")
    sweep.written({wrong.name: wrong}, page)
    text = page.read_text()
    assert text.startswith(f"# Title\n\nWhy.\n\n{sweep.HEADING}\n")
    assert "old" not in text
    assert "- `gru/0/0/torchscript`: fail, false refusal: snr" in text
    assert "1 exports: 0 agrees, 0 false pass, 1 false refusal" in text
