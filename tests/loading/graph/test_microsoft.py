"""Operators of ONNX Runtime against ONNX Runtime itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper

from deploytool.loading.graph.interpreter import GraphModule

Arrays = list[Any]  # numpy arrays and scalars; None for an omitted input
RNG = np.random.default_rng(7)


def floats(*shape: int) -> npt.NDArray[Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def integers(dtype: type, *shape: int) -> npt.NDArray[Any]:
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max + 1, shape).astype(dtype)


SCALE, ZERO = np.float32(0.05), np.uint8(120)
TOKENS = RNG.integers(0, 9, (2, 5)).astype(np.int32)
CACHE = (np.cos(np.outer(np.arange(8), [1, 0.1])).astype("f"), np.sin(np.outer(np.arange(8), [1, 0.1])).astype("f"))
# 7 bits of each factor: on a processor without VNNI, ONNX Runtime saturates the sum of two products of 8 bits
CASES: list[tuple[str, Arrays, dict[str, Any]]] = [
    ("Gelu", [floats(3, 4)], {}),
    ("BiasGelu", [floats(3, 4), floats(4)], {}),
    ("FastGelu", [floats(3, 4), floats(4)], {}),
    ("QuickGelu", [floats(3, 4)], {"alpha": 1.5}),
    ("FusedMatMul", [floats(2, 4, 3), floats(2, 5, 4)], {"transA": 1, "transB": 1, "alpha": 0.5}),
    ("FusedConv", [floats(1, 3, 6, 6), floats(4, 3, 3, 3), floats(4)], {"activation": "Relu", "pads": [1] * 4}),
    (
        "FusedConv",
        [floats(1, 3, 6, 6), floats(4, 3, 3, 3), floats(4), floats(1, 4, 4, 4)],
        {"activation": "HardSigmoid", "activation_params": [0.2, 0.5]},
    ),
    ("FusedGemm", [floats(3, 4), floats(4, 5), floats(5)], {"activation": "LeakyRelu", "activation_alpha": 0.2}),
    ("SkipLayerNormalization", [floats(2, 3, 8), floats(2, 3, 8), floats(8), floats(8), floats(8)], {"epsilon": 1e-5}),
    ("SkipSimplifiedLayerNormalization", [floats(2, 3, 8), floats(2, 3, 8), floats(8)], {"epsilon": 1e-5}),
    (
        "EmbedLayerNormalization",
        [TOKENS, TOKENS % 2, floats(9, 8), floats(6, 8), floats(2, 8), floats(8), floats(8)],
        {"epsilon": 1e-5},
    ),
    ("Attention", [floats(2, 5, 8), floats(8, 24), floats(24)], {"num_heads": 2}),
    ("Attention", [floats(2, 5, 8), floats(8, 24), floats(24), np.array([5, 3], np.int32)], {"num_heads": 2}),
    ("Attention", [floats(2, 5, 8), floats(8, 24), floats(24), None], {"num_heads": 2, "unidirectional": 1}),
    ("MultiHeadAttention", [floats(2, 5, 8), floats(2, 6, 8), floats(2, 6, 8), floats(24)], {"num_heads": 2}),
    (
        "MultiHeadAttention",
        [floats(2, 5, 8), floats(2, 6, 8), floats(2, 6, 8), None, None, floats(2, 2, 5, 6)],
        {"num_heads": 2},
    ),
    ("RotaryEmbedding", [floats(2, 5, 12), np.arange(10).reshape(2, 5) % 8, *CACHE], {}),
    ("RotaryEmbedding", [floats(2, 3, 5, 4), np.array([2]), *CACHE], {"interleaved": 1}),
    ("DequantizeLinear", [integers(np.uint8, 3, 4), SCALE, ZERO], {}),
    ("QuantizeLinear", [floats(3, 4), SCALE, ZERO], {}),
    ("QLinearAdd", [integers(np.uint8, 3, 4), SCALE, ZERO, integers(np.uint8, 3, 4), SCALE, ZERO, SCALE * 2, ZERO], {}),
    ("QLinearMul", [integers(np.uint8, 3, 4), SCALE, ZERO, integers(np.uint8, 3, 4), SCALE, ZERO, SCALE * 9, ZERO], {}),
    ("QLinearSigmoid", [integers(np.uint8, 3, 4), SCALE, ZERO, np.float32(1 / 256), np.uint8(0)], {}),
    ("QLinearLeakyRelu", [integers(np.uint8, 3, 4), SCALE, ZERO, SCALE, ZERO], {"alpha": 0.2}),
    ("QLinearGlobalAveragePool", [integers(np.uint8, 1, 3, 4, 4), SCALE, ZERO, SCALE, ZERO], {"channels_last": 0}),
    (
        "QLinearConcat",
        [SCALE, ZERO, integers(np.uint8, 3, 4), SCALE, ZERO, integers(np.uint8, 3, 4), SCALE, ZERO],
        {"axis": 1},
    ),
    (
        "QGemm",
        [
            integers(np.uint8, 3, 4),
            SCALE,
            ZERO,
            integers(np.uint8, 5, 4),
            SCALE,
            ZERO,
            integers(np.int8, 5).astype("i"),
        ],
        {"transB": 1},
    ),
    ("MatMulIntegerToFloat", [integers(np.uint8, 3, 4), integers(np.int8, 4, 5) // 2, SCALE, SCALE, ZERO], {}),
    ("DynamicQuantizeMatMul", [floats(3, 4), integers(np.int8, 4, 5) // 2, SCALE, None, floats(5)], {}),
]


def graph(kind: str, arrays: Arrays, attributes: dict[str, Any]) -> onnx.ModelProto:
    names = [f"i{number}" if array is not None else "" for number, array in enumerate(arrays)]
    results = ["y", "counts"] if kind == "EmbedLayerNormalization" else ["y"]
    node = helper.make_node(kind, names, results, "node", domain="com.microsoft", **attributes)
    kinds = [(name, np.asarray(array)) for name, array in zip(names, arrays, strict=True) if name]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in kinds
    ]
    body = helper.make_graph([node], "graph", inputs, [onnx.ValueInfoProto(name="y")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize(
    ("kind", "arrays", "attributes"), CASES, ids=[f"{at}-{case[0]}" for at, case in enumerate(CASES)]
)
def test_it_computes_what_onnx_runtime_computes(kind: str, arrays: Arrays, attributes: dict[str, Any]) -> None:
    model = graph(kind, arrays, attributes)
    feeds = {f"i{number}": np.asarray(array) for number, array in enumerate(arrays) if array is not None}
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, feeds)
    with torch.no_grad():
        result = GraphModule(model)(*(torch.from_numpy(array.copy()) for array in feeds.values()))["y"].numpy()
    assert result.dtype == expected.dtype
    if expected.dtype.kind in "iu":  # ONNX Runtime rounds after FP32 sums, and a tie may fall on either side
        assert np.abs(result.astype(int) - expected.astype(int)).max() <= 1
        assert (result == expected).mean() > 0.7
    else:
        np.testing.assert_allclose(result, expected, rtol=2e-5, atol=5e-6)
