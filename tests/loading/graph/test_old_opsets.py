"""Operators as older opsets define them, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper, numpy_helper

from deploytool.loading.graph.interpreter import GraphModule
from deploytool.loading.module import fp64

RNG = np.random.default_rng(3)
Constants = dict[str, npt.NDArray[Any]]


def floats(*shape: int) -> npt.NDArray[Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def longs(*numbers: int) -> npt.NDArray[Any]:
    return np.array(numbers, np.int64)


IMAGE, MATRIX = (2, 3, 8, 10), (3, 4)
CASES: list[tuple[str, int, tuple[int, ...], list[npt.NDArray[Any]], dict[str, Any]]] = [
    ("AveragePool", 7, IMAGE, [], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1}),
    ("AveragePool", 10, IMAGE, [], {"kernel_shape": [3, 3], "pads": [0, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", 19, IMAGE, [], {"kernel_shape": [3, 2], "dilations": [2, 1], "pads": [1, 1, 1, 1]}),
    ("BatchNormalization", 7, IMAGE, [floats(3), floats(3), floats(3), floats(3) ** 2], {}),
    ("BatchNormalization", 9, IMAGE, [floats(3), floats(3), floats(3), floats(3) ** 2], {"epsilon": 1e-2}),
    ("Clip", 7, MATRIX, [], {"min": -0.5, "max": 0.25}),
    ("Clip", 7, MATRIX, [], {"max": 0.25}),
    ("Clip", 11, MATRIX, [np.array(-0.5, "f")], {}),
    ("Conv", 7, IMAGE, [floats(4, 3, 3, 3)], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("Conv", 11, IMAGE, [floats(4, 3, 3, 3), floats(4)], {"pads": [0, 1, 2, 1], "dilations": [2, 1]}),
    ("ConvTranspose", 7, IMAGE, [floats(3, 4, 3, 3), floats(4)], {"strides": [2, 2], "output_padding": [1, 1]}),
    ("ConvTranspose", 11, IMAGE, [floats(3, 2, 3, 3)], {"strides": [2, 3], "auto_pad": "SAME_UPPER"}),
    ("ConvTranspose", 11, IMAGE, [floats(3, 2, 3, 3), floats(2)], {"strides": [2, 2], "pads": [0, 1, 1, 0]}),
    ("DepthToSpace", 7, (1, 8, 2, 3), [], {"blocksize": 2}),
    ("Dropout", 7, MATRIX, [], {"ratio": 0.5}),
    ("Flatten", 9, IMAGE, [], {"axis": 2}),
    ("Gemm", 7, MATRIX, [floats(4, 5), floats(1, 5)], {"alpha": 0.5, "beta": 2.0}),
    ("Gemm", 9, MATRIX, [floats(5, 4), floats(5)], {"transB": 1}),
    ("LogSoftmax", 7, IMAGE, [], {}),
    ("MaxPool", 8, IMAGE, [], {"kernel_shape": [3, 3], "pads": [2, 0, 1, 2], "strides": [2, 1]}),
    ("MaxPool", 10, IMAGE, [], {"kernel_shape": [3, 3], "dilations": [2, 2], "ceil_mode": 1, "strides": [2, 2]}),
    ("Pad", 7, IMAGE, [], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "mode": "reflect"}),
    ("Pad", 7, IMAGE, [], {"pads": [0, 0, 1, 2, 0, 0, 3, -1], "value": 1.5}),
    ("Pad", 11, IMAGE, [longs(0, 0, 1, 2, 0, 0, 3, 0)], {"mode": "edge"}),
    ("PRelu", 7, IMAGE, [floats(3, 1, 1)], {}),
    ("ReduceL2", 7, IMAGE, [], {"axes": [1, 3], "keepdims": 0}),
    ("ReduceMax", 7, IMAGE, [], {}),
    ("ReduceMean", 7, IMAGE, [], {"axes": [-1, 2]}),
    ("ReduceSum", 11, IMAGE, [], {"axes": [1]}),
    ("ReduceSum", 13, IMAGE, [longs(1)], {"keepdims": 0}),
    ("Resize", 10, IMAGE, [np.array([1, 1, 2, 1.5], "f")], {"mode": "nearest"}),
    ("Resize", 10, IMAGE, [np.array([1, 1, 0.6, 2], "f")], {"mode": "linear"}),
    (
        "Resize",
        11,
        IMAGE,
        [np.array([], "f"), np.array([1, 1, 2, 2], "f")],
        {"mode": "nearest", "nearest_mode": "floor"},
    ),
    (
        "Resize",
        11,
        IMAGE,
        [np.array([], "f"), np.array([1, 1, 1.7, 2], "f")],
        {"mode": "cubic", "coordinate_transformation_mode": "align_corners"},
    ),
    (
        "Resize",
        13,
        IMAGE,
        [np.array([], "f"), np.array([], "f"), longs(2, 3, 5, 23)],
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ),
    ("Slice", 7, IMAGE, [], {"starts": [1, -4], "ends": [1000, -1], "axes": [2, 3]}),
    ("Slice", 10, IMAGE, [longs(7, 1), longs(-1000, 9), longs(2, 3), longs(-2, 3)], {}),
    ("Softmax", 7, IMAGE, [], {"axis": 1}),
    ("Softmax", 12, IMAGE, [], {"axis": 2}),
    ("Softmax", 13, IMAGE, [], {"axis": 1}),
    ("Split", 7, (6, 4), [], {"axis": 0, "split": [1, 2, 3]}),
    ("Squeeze", 7, (1, 3, 1, 2), [], {"axes": [0, 2]}),
    ("Squeeze", 11, (1, 3, 1, 2), [], {}),
    ("TopK", 7, (3, 6), [], {"k": 2, "axis": 1}),
    ("TopK", 10, (3, 6), [longs(2)], {"axis": 0}),
    ("Unsqueeze", 7, MATRIX, [], {"axes": [0, 3]}),
    ("Unsqueeze", 11, MATRIX, [], {"axes": [-1, 0]}),
    ("Upsample", 7, IMAGE, [], {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "linear"}),
    ("Upsample", 9, IMAGE, [np.array([1, 1, 2, 3], "f")], {"mode": "nearest"}),
]
OUTPUTS = {"Split": 3, "TopK": 2}


def graph(kind: str, opset: int, shape: tuple[int, ...], constants: list[Any], attributes: dict[str, Any]) -> Any:
    arrays = {f"c{number}": np.asarray(array) for number, array in enumerate(constants)}
    names = [f"y{number}" for number in range(OUTPUTS.get(kind, 1))]
    node = helper.make_node(kind, ["x", *arrays], names, "node", **attributes)
    body = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=name) for name in names],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)


@pytest.mark.parametrize(("kind", "opset", "shape", "constants", "attributes"), CASES)
def test_an_operator_of_an_older_opset(
    kind: str, opset: int, shape: tuple[int, ...], constants: list[Any], attributes: dict[str, Any]
) -> None:
    model, x = graph(kind, opset, shape, constants, attributes), floats(*shape)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})
    with torch.no_grad():
        module = GraphModule(model)
        results = [result.numpy() for result in module(torch.from_numpy(x)).values()]
        with fp64.run(module):
            exact = [result.numpy() for result in module(torch.from_numpy(x).double()).values()]
    assert module.reference_operators() == {}
    for result, wide, answer in zip(results, exact, expected, strict=True):
        assert result.dtype == answer.dtype
        assert wide.dtype == (np.float64 if answer.dtype == np.float32 else answer.dtype)
        np.testing.assert_allclose(result, answer, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(wide, answer, rtol=1e-4, atol=1e-5)
