"""Small ONNX graphs for tests, in onnx's own text form with weights drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper, parser

Weights = Mapping[str, npt.NDArray[Any]]

CONV = """<ir_version: 8, opset_import: ["": {opset}]>
conv (float[N,3,16,16] image) => (float[N,10] scores) {{
  a = Conv<pads=[1,1,1,1]>(image, kernel, bias)
  b = Relu(a)
  c = GlobalAveragePool(b)
  d = Flatten(c)
  scores = Gemm<transB=1>(d, table, shift)
}}"""

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
