"""Zero points that a quantised graph leaves out are written, where ONNX Runtime cannot do without them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from deploytool.rewrites.graph import zero_points
from tests import given_graphs

X = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)


def answers(graph: onnx.ModelProto, x: npt.NDArray[np.float32] = X, *, exact: bool) -> npt.NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    else:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found: list[npt.NDArray[np.float32]] = onnxruntime.InferenceSession(graph.SerializeToString(), options).run(
        None, {"x": x}
    )
    return found[0]


def test_a_graph_with_them_runs_without_saturation_and_computes_the_same() -> None:
    given = given_graphs.quantised_by_channel()
    written = zero_points.written(given)
    onnx.checker.check_model(written)
    table = next(node for node in written.graph.node if node.input[0] == "table")
    held = {weight.name: onnx.numpy_helper.to_array(weight) for weight in written.graph.initializer}
    zero = held[table.input[2]]
    assert (zero.dtype.name, zero.tolist()) == ("int8", [0, 0, 0, 0])
    np.testing.assert_array_equal(answers(written, exact=False), answers(given, exact=False))
    np.testing.assert_allclose(answers(written, exact=True), answers(given, exact=False), atol=1e-5)


def test_those_of_blocks_are_written_too() -> None:
    given = given_graphs.weights_only("int8 blocks")
    written = zero_points.written(given)
    onnx.checker.check_model(written)
    x = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    np.testing.assert_array_equal(answers(written, x, exact=False), answers(given, x, exact=False))
    np.testing.assert_allclose(answers(written, x, exact=True), answers(given, x, exact=False), atol=0.05)


def test_others_stay_the_same_object() -> None:
    for graph in (
        given_graphs.quantised(),
        given_graphs.conv(),
        zero_points.written(given_graphs.quantised_by_channel()),
    ):
        assert zero_points.written(graph) is graph
