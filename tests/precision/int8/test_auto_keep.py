"""The search for layers to keep out of INT8 and FP8, on a graph in which one layer reads a tensor with an outlier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.precision.int8 import auto_keep, calibration, quantize, selection
from deploytool.precision.int8.calibrated_graphs import CalibratedGraph
from deploytool.precision.int8.calibration import Method
from deploytool.precision.int8.selection import Selected, Trial
from deploytool.results.int8_forms import Form
from deploytool.spec import Precision

CHANNELS, FORM = 8, Form.U8S8


def graph() -> onnx.ModelProto:
    """Three convolutions; the first makes one channel 1,000 times as large as the others, the second ignores it."""
    rng = np.random.default_rng(0)
    first, second, third = (rng.normal(size=(CHANNELS, CHANNELS, 1, 1)).astype(np.float32) for _ in range(3))
    first[0] *= 1000
    second[:, 0] = 0
    weights = [
        numpy_helper.from_array(array, name)
        for name, array in zip(("w1", "w2", "w3"), (first, second, third), strict=True)
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "second"),
        helper.make_node("Relu", ["c"], ["d"], "relu_2"),
        helper.make_node("Conv", ["d", "w3"], ["e"], "third"),
        helper.make_node("ReduceMean", ["e", "axes"], ["y"], "mean", keepdims=0),
    ]
    weights.append(numpy_helper.from_array(np.array([2, 3], np.int64), "axes"))
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", CHANNELS, 4, 4])
    scores = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CHANNELS])
    made = helper.make_model(
        helper.make_graph(nodes, "g", [image], [scores], weights), opset_imports=[helper.make_opsetid("", 18)]
    )
    made.ir_version = 9
    return made


def cases(count: int, seed: int) -> list[Arrays]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(1, CHANNELS, 4, 4)).astype(np.float32)} for _ in range(count)]


def chosen() -> Selected:
    made = graph()
    table = calibration.collect(made, quantize.activations(made, FORM), cases(32, 1))
    quantized = quantize.quantize(made, table.ranges(Method.MIN_MAX, symmetric=False), FORM)
    return Selected(quantized, CalibratedGraph(made, table), Trial(Method.MIN_MAX, False, False, 0.0), ())


def disagreement(got: Sequence[Arrays], expected: Sequence[Arrays]) -> float:
    return float(np.mean([a["y"].argmax() != b["y"].argmax() for a, b in zip(got, expected, strict=True)]))


def test_the_layer_that_reads_the_outlier_is_kept() -> None:
    found = auto_keep.find(chosen(), FORM, cases(64, 2), disagreement, margin=0.1)
    assert found.kept is not None
    assert "second" in found.kept
    assert len(found.kept) < 3
    assert found.evaluations > 1


def test_nothing_is_kept_where_nothing_is_lost() -> None:
    assert auto_keep.find(chosen(), FORM, cases(64, 2), disagreement, margin=1.0).kept == frozenset()


def test_there_may_be_no_set() -> None:
    found = auto_keep.find(chosen(), FORM, cases(16, 2), lambda got, expected: 1.0, margin=0.5)
    assert found.kept is None


def test_layers_are_kept_out_of_fp8_until_decisions_hold() -> None:
    made, form = graph(), Form.E4M3
    table, judged = calibration.collect(made, quantize.activations(made, form), cases(32, 1)), cases(200, 2)
    kept, evaluations = auto_keep.search([CalibratedGraph(made, table)], form, judged, 32, disagreement, 0.0)
    expected, ranges = selection.results(made, judged), table.ranges(Method.MIN_MAX, symmetric=True)

    def differ(without: frozenset[str]) -> float:
        quantised = quantize.quantize(made, ranges, form, without) if len(without) < 3 else made
        return disagreement(selection.results(quantised, judged), expected)

    assert kept
    assert evaluations > 1
    assert differ(kept) == 0 < differ(frozenset())
    text = auto_keep.remark(sorted(kept), evaluations, 200, Precision.FP8)
    assert text.startswith(f"kept out of FP8: {min(kept)}")
    with pytest.raises(StageFailed, match="decides otherwise with every layer kept"):
        auto_keep.search([CalibratedGraph(made, table)], form, judged[:8], 4, lambda got, expected: 1.0, 0.5)
