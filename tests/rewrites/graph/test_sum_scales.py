"""Weights whose scales differ within a sum become floats, since ONNX Runtime applies such scales to the outputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from deploytool.errors import BadInput
from deploytool.rewrites.graph import sum_scales
from tests import given_graphs


def answers(graph: onnx.ModelProto, *, optimised: bool) -> npt.NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    shape = [each.dim_value or 4 for each in graph.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    found: list[npt.NDArray[np.float32]] = session.run(None, {"x": x})
    return found[0]


@pytest.mark.parametrize("outputs", [16, 8], ids=["as many outputs as inputs", "fewer outputs"])
def test_onnx_runtime_computes_a_product_as_the_file_says(outputs: int) -> None:
    given = given_graphs.scaled_along_sums("MatMul", outputs)
    before = given.SerializeToString()
    expected, written = answers(given, optimised=False), sum_scales.dequantised(given)
    assert given.SerializeToString() == before
    onnx.checker.check_model(written, full_check=True)
    assert [node.op_type for node in written.graph.node].count("DequantizeLinear") == 2
    np.testing.assert_array_equal(answers(written, optimised=False), expected)
    np.testing.assert_allclose(answers(written, optimised=True), expected, atol=0.21)
    assert (np.abs(answers(written, optimised=True) - expected) < 0.01).mean() > 0.9


@pytest.mark.parametrize(("op", "axis"), [("Conv", 0), ("Gemm", 1)])
def test_what_onnx_runtime_would_fuse_wrongly_is_refused_with_the_right_axis(op: str, axis: int) -> None:
    given = given_graphs.scaled_along_sums(op)
    expected = answers(given, optimised=False)
    assert np.abs(answers(given, optimised=True) - expected).max() > 0.2 * np.abs(expected).max()
    with pytest.raises(BadInput, match=f"of the {op} .* have several scales within a sum") as caught:
        sum_scales.check(given)
    assert f"axis {axis} of its" in caught.value.remedy
    (dequantize,) = (node for node in given.graph.node if node.input[0] == "codes")
    dequantize.attribute[0].i = axis
    sum_scales.check(given)
    np.testing.assert_allclose(answers(given, optimised=True), answers(given, optimised=False), atol=0.21)


def test_a_gemm_that_onnx_runtime_does_not_fuse_passes() -> None:
    sum_scales.check(given_graphs.scaled_along_sums("Gemm", 8))
    sum_scales.check(given_graphs.scaled_along_sums("MatMul"))


def test_weights_that_a_node_quantises_are_found() -> None:
    given = given_graphs.scaled_along_sums("MatMul")
    floats = given_graphs.quantised_by_a_node(given)
    written = sum_scales.dequantised(floats)
    assert written is not floats
    np.testing.assert_array_equal(answers(written, optimised=False), answers(floats, optimised=False))


@pytest.mark.parametrize(
    "make",
    [
        given_graphs.quantised,
        given_graphs.quantised_by_channel,
        given_graphs.conv,
        lambda: given_graphs.weights_only("int8 blocks"),
    ],
)
def test_others_stay_the_same_object(make: Callable[[], onnx.ModelProto]) -> None:
    graph = make()
    assert sum_scales.dequantised(graph) is graph
