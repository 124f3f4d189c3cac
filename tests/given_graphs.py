"""Small ONNX graphs for tests, in onnx's own text form with weights drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

Weights = Mapping[str, npt.NDArray[Any]]

CONV = """<ir_version: 8, opset_import: ["": {opset}]>
conv (float[N,3,16,16] image) => (float[N,10] scores) {{
  a = Conv<pads=[1,1,1,1]>(image, kernel, bias)
  b = Relu(a)
  c = GlobalAveragePool(b)
  d = Flatten(c)
  scores = Gemm<transB=1>(d, table, shift)
}}"""

WEIGHTS_ONLY = """<ir_version: 10, opset_import: ["": 21]>
weights_only (float[N,64] x) => (float[N,32] y) {
  w = DequantizeLinear %s(codes, scale)
  y = MatMul(x, w)
}"""

SCALED_ALONG_SUMS = """<ir_version: 8, opset_import: ["": 18]>
scaled (float[%s] x) => (float[%s] y) {
  q = QuantizeLinear(x, s, z)
  d = DequantizeLinear(q, s, z)
  w = DequantizeLinear<axis=%d>(codes, scale, zero)
  p = %s(d, w)
  r = QuantizeLinear(p, t, z)
  y = DequantizeLinear(r, t, z)
}"""

MLP = """<ir_version: 8, opset_import: ["": 18]>
mlp (float[batch,8] x) => (float[batch,4] y) {
  a = MatMul(x, first)
  b = Relu(a)
  y = MatMul(b, second)
}"""

TOKENS = """<ir_version: 8, opset_import: ["": 18]>
tokens (int64[batch,seq] ids, int64[batch,seq] attention_mask) => (float[batch,seq,8] hidden) {
  e = Gather(words, ids)
  q = MatMul(e, query)
  k = Transpose<perm=[0,2,1]>(e)
  s = MatMul(q, k)
  axis = Constant<value_ints=[1]>()
  m = Unsqueeze(attention_mask, axis)
  seen = Cast<to=9>(m)
  low = Constant<value_float=-10000.0>()
  masked = Where(seen, s, low)
  p = Softmax<axis=-1>(masked)
  hidden = MatMul(p, e)
}"""

STATE = """<ir_version: 8, opset_import: ["": 18]>
state (float[B,4] x, float[2,B,4] before, int64 rate) => (float[B,4] y, float[2,B,4] after) {
  zero = Constant<value_int=0>()
  first = Gather<axis=0>(before, zero)
  factor = Cast<to=1>(rate)
  sum = Add(x, first)
  scaled = Add(sum, factor)
  y = Tanh(scaled)
  after = Mul(before, decay)
}"""

PASSED_THROUGH = """<ir_version: 8, opset_import: ["": 18]>
passed (float[batch,8] x, float rate) => (float[batch,4] y, float rate, float[batch,8] x) {
  a = MatMul(x, first)
  y = Mul(a, rate)
}"""


def weights(**shapes: tuple[int, ...]) -> dict[str, npt.NDArray[np.float32]]:
    """Weights with these shapes, scaled so that sums of their products stay near 1."""
    rng = np.random.default_rng(7)
    scale = {name: np.sqrt(max(1, int(np.prod(shape[1:])))) for name, shape in shapes.items()}
    return {name: (rng.standard_normal(shape) / scale[name]).astype(np.float32) for name, shape in shapes.items()}


def model(text: str, arrays: Weights) -> onnx.ModelProto:
    """The graph of a text with these initialisers."""
    graph = parser.parse_model(text)
    graph.graph.initializer.extend([numpy_helper.from_array(array, name) for name, array in arrays.items()])
    return graph


def conv(opset: int = 18) -> onnx.ModelProto:
    """A small classifier of images."""
    arrays = weights(kernel=(8, 3, 3, 3), bias=(8,), table=(10, 8), shift=(10,))
    return model(CONV.format(opset=opset), arrays)


def half(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its weights, inputs and outputs in FP16."""
    for weight in graph.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return graph


def double(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its inputs, outputs and weights in FP64, the weights with more digits than FP32 has."""
    for weight in graph.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) / np.float64(3), weight.name))
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return graph


def mlp() -> onnx.ModelProto:
    """Two matrix products."""
    return model(MLP, weights(first=(8, 16), second=(16, 4)))


def tokens() -> onnx.ModelProto:
    """Attention over token ids with a mask."""
    return model(TOKENS, weights(words=(50, 8), query=(8, 8)))


def state() -> onnx.ModelProto:
    """A step of a recurrent model: its state has the batch second, and one input is a scalar."""
    return model(STATE, {"decay": np.array([[[0.5]], [[0.25]]], np.float32)})


MIXING = """<ir_version: 8, opset_import: ["": 18]>
mixing (float[4,3] x) => (float[4,3] y) {
  y = Softmax<axis=0>(x)
}"""


def passed_through() -> onnx.ModelProto:
    """A matrix product whose inputs, one of them a scalar, are outputs as well."""
    return model(PASSED_THROUGH, weights(first=(8, 4)))


def mixing() -> onnx.ModelProto:
    """A graph whose first dimension looks like a batch and is none."""
    return model(MIXING, {})


SELECTION = """<ir_version: 8, opset_import: ["": 18]>
selection (float[1,6,4] boxes, float[1,2,6] scores) => (float[1,6,4] moved, int64[N,3] kept) {
  most = Constant<value_ints=[3]>()
  moved = Sigmoid(boxes)
  kept = NonMaxSuppression(moved, scores, most)
}"""


def selection() -> onnx.ModelProto:
    """A detection head: how many boxes it keeps depends on the data."""
    return model(SELECTION, {})


QUANTISED = """<ir_version: 8, opset_import: ["": 18]>
quantised (float[batch,8] x) => (float[batch,4] y) {
  q = QuantizeLinear(x, step, zero)
  d = DequantizeLinear(q, step, zero)
  w = DequantizeLinear(table, scale)
  h = MatMul(d, w)
  y = Relu(h)
}"""

RECURRENT = """<ir_version: 8, opset_import: ["": 18]>
recurrent (float[batch,6,4] x) => (float[batch,5] last) {
  t = Transpose<perm=[1,0,2]>(x)
  y, h, c = LSTM<hidden_size=5>(t, w, r, b)
  axis = Constant<value_ints=[0]>()
  last = Squeeze(h, axis)
}"""

CHOICE = """<ir_version: 8, opset_import: ["": 18]>
choice (float[batch,4] x, bool flag) => (float[batch,4] y) {
  y = If(flag) <then_branch = t () => (float[batch,4] a) { a = Mul(x, two) },
                else_branch = e () => (float[batch,4] b) { b = Sigmoid(x) }>
}"""

REPEAT = """<ir_version: 8, opset_import: ["": 18]>
repeat (float[batch,4] x) => (float[batch,4] y) {
  n = Constant<value_int=3>()
  yes = Cast<to=9>(n)
  y = Loop(n, yes, x) <body = b (int64 i, bool go, float[batch,4] a) => (bool on, float[batch,4] o) {
    on = Identity(go)
    s = Mul(a, half)
    o = Tanh(s)
  }>
}"""


def quantised() -> onnx.ModelProto:
    """A matrix product in QDQ form."""
    table = np.random.default_rng(0).integers(-127, 127, (8, 4)).astype(np.int8)
    steps = {"step": np.float32(0.05), "zero": np.int8(0), "table": table, "scale": np.float32(0.01)}
    return model(QUANTISED, {name: np.asarray(array) for name, array in steps.items()})


def quantised_by_channel() -> onnx.ModelProto:
    """The same with asymmetric inputs, and weights with a scale for each channel that leave their zero points out."""
    graph = quantised()
    for name, array in (("zero", np.uint8(100)), ("scale", np.array([0.01, 0.02, 0.015, 0.005], np.float32))):
        (weight,) = (each for each in graph.graph.initializer if each.name == name)
        weight.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array), name))
    (product,) = (node for node in graph.graph.node if node.op_type == "MatMul")
    product.op_type = "Gemm"
    return graph


def recurrent() -> onnx.ModelProto:
    """The last state of an LSTM."""
    return model(RECURRENT, weights(w=(1, 20, 4), r=(1, 20, 5), b=(1, 40)))


def choice() -> onnx.ModelProto:
    """An If on an input."""
    return model(CHOICE, {"two": np.array(2, np.float32)})


def repeat() -> onnx.ModelProto:
    """A Loop of three turns."""
    return model(REPEAT, {"half": np.array(0.5, np.float32)})


def weights_only(kind: str) -> onnx.ModelProto:
    """A product of FP32 activations and dequantised weights: `int8` by channel, `int8 blocks` or `int4 blocks`."""
    rows, columns, block = 64, 32, 32
    values = np.random.default_rng(5).standard_normal((rows, columns)) / 8
    largest = 7 if kind.startswith("int4") else 127
    by_block = "blocks" in kind
    parts = values.reshape(-1, block if by_block else rows, columns)
    scales = (np.abs(parts).max(axis=1) / largest).astype(np.float32)
    codes = np.rint(parts / scales[:, None]).reshape(rows, columns).astype(int)
    stored = TensorProto.INT4 if kind.startswith("int4") else TensorProto.INT8
    graph = parser.parse_model(WEIGHTS_ONLY % ("<axis=0,block_size=32>" if by_block else "<axis=1>"))
    graph.graph.initializer.append(helper.make_tensor("codes", stored, codes.shape, codes.ravel().tolist()))
    graph.graph.initializer.append(numpy_helper.from_array(scales if by_block else scales[0], "scale"))
    return graph


def scaled_along_sums(op: str, outputs: int = 16) -> onnx.ModelProto:
    """A quantised product of 16 inputs whose weights have a scale for each input: `Conv`, `Gemm` or `MatMul`."""
    rng = np.random.default_rng(6)
    shape = (outputs, 16, 3, 3) if op == "Conv" else (16, outputs)
    size = "N,16,6,6" if op == "Conv" else "N,16"
    result = f"N,{outputs},4,4" if op == "Conv" else f"N,{outputs}"
    graph = parser.parse_model(SCALED_ALONG_SUMS % (size, result, int(op == "Conv"), op))
    for name, array in {
        "codes": rng.integers(-60, 61, shape).astype(np.int8),
        "scale": rng.uniform(0.002, 0.02, 16).astype(np.float32),
        "zero": np.zeros(16, np.int8),
        "s": np.float32(0.03),
        "z": np.uint8(128),
        "t": np.float32(0.2),
    }.items():
        graph.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return graph


def quantised_by_a_node(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph whose weights are stored as floats, and quantised by a node."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    held = {weight.name: weight for weight in copy.graph.initializer}
    (node,) = (each for each in copy.graph.node if each.input[0] == "codes")
    axis = node.attribute[0].i
    codes, scale = (numpy_helper.to_array(held[name]) for name in ("codes", "scale"))
    floats = codes * scale.reshape([-1 if dim == axis else 1 for dim in range(codes.ndim)])
    held["codes"].CopyFrom(numpy_helper.from_array(floats.astype(np.float32), "floats"))
    node.input[0] = "codes_of_node"
    copy.graph.node.insert(
        0, helper.make_node("QuantizeLinear", ["floats", "scale", "zero"], ["codes_of_node"], axis=axis)
    )
    return copy
