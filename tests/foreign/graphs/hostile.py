"""Graphs that are hard to take: written in onnx's text form, each with one trait that a door may stumble over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

Weights = Mapping[str, np.ndarray[Any, np.dtype[Any]]]

_BRANCH = """<ir_version: 8, opset_import: ["": 17]>
branch (float[batch,8] x) => (float[batch,4] y) {
  h = MatMul(x, first)
  total = ReduceMean<keepdims=0>(h)
  limit = Constant<value_float=1000.0>()
  loud = Greater(total, limit)
  y = If (loud) <
    then_branch = quiet () => (float[batch,4] a) { half = Constant<value_float=0.5>() a = Mul(h, half) },
    else_branch = same () => (float[batch,4] b) { b = Tanh(h) }>
}"""
_LOOP = """<ir_version: 8, opset_import: ["": 17]>
loop (float[batch,8] x) => (float[batch,8] y) {
  times = Constant<value = int64 {3}>()
  go = Constant<value = bool {1}>()
  y = Loop (times, go, x) <body = step (int64 i, bool before, float[batch,8] a) => (bool after, float[batch,8] b) {
    after = Identity(before)
    m = MatMul(a, first)
    b = Tanh(m)
  }>
}"""
_NO_BATCH = """<ir_version: 8, opset_import: ["": 17]>
alone (float[6,8] x) => (float[6,4] y) {
  h = MatMul(x, first)
  y = Softmax<axis=0>(h)
}"""
_ELSEWHERE = """<ir_version: 8, opset_import: ["": 17]>
times (float[5,batch,8] x) => (float[5,batch,4] y) {
  h = MatMul(x, first)
  y = Tanh(h)
}"""
_OLD = """<ir_version: 7, opset_import: ["": 11]>
old (float[batch,3,16,16] image) => (float[batch,4] y) {
  c = Conv<pads=[1,1,1,1]>(image, kernel)
  r = Clip(c, low, high)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  s = Squeeze<axes=[2]>(u)
  u = Unsqueeze<axes=[2]>(f)
  y = MatMul(s, first)
}"""
_NEW = """<ir_version: 12, opset_import: ["": 23]>
new (float[batch,6,8] x) => (float[batch,6,8] y) {
  n = RMSNormalization<axis=-1>(x, scale)
  q = MatMul(n, query)
  a = Attention<q_num_heads=2, kv_num_heads=2>(q, n, n)
  y = Add(a, x)
}"""
_EXTERNAL = """<ir_version: 8, opset_import: ["": 17]>
external (float[batch,8] x) => (float[batch,4] y) {
  h = MatMul(x, first)
  y = Tanh(h)
}"""
_NARROW = """<ir_version: 8, opset_import: ["": 17]>
narrow (float16[batch,8] x) => (float16[batch,4] y) {
  h = MatMul(x, first)
  y = Relu(h)
}"""
_BFLOAT = """<ir_version: 8, opset_import: ["": 17]>
bfloat (bfloat16[batch,8] x) => (float[batch,4] y) {
  wide = Cast<to=1>(x)
  h = MatMul(wide, first)
  y = Tanh(h)
}"""
_INTEGERS = """<ir_version: 8, opset_import: ["": 17]>
integers (int64[batch,6] ids, bool[batch,6] keep) => (float[batch,8] y) {
  e = Gather(words, ids)
  k = Cast<to=1>(keep)
  axis = Constant<value_ints=[2]>()
  w = Unsqueeze(k, axis)
  m = Mul(e, w)
  y = ReduceMean<axes=[1], keepdims=0>(m)
}"""
_QUANTISED = """<ir_version: 8, opset_import: ["": 17]>
quantised (float[batch,8] x) => (float[batch,4] y) {
  q = QuantizeLinear(x, step, zero)
  d = DequantizeLinear(q, step, zero)
  w = DequantizeLinear(codes, wstep, zero)
  h = MatMul(d, w)
  y = Tanh(h)
}"""
_CONSTANT = """<ir_version: 8, opset_import: ["": 17]>
constant (float[batch,8] x) => (float[batch,4] y, float[2,4] anchors) {
  y = MatMul(x, first)
  anchors = Mul(table, table)
}"""
_NMS = """<ir_version: 8, opset_import: ["": 17]>
nms (float[1,12,4] boxes, float[1,3,12] scores) => (int64[kept,3] chosen) {
  most = Constant<value = int64 {5}>()
  overlap = Constant<value_float=0.5>()
  least = Constant<value_float=0.1>()
  chosen = NonMaxSuppression(boxes, scores, most, overlap, least)
}"""


def _weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    rng = np.random.default_rng(11)
    return {name: rng.standard_normal(shape).astype(np.float32) * 0.4 for name, shape in shapes.items()}


def _text(text: str, weights: Weights) -> onnx.ModelProto:
    graph = parser.parse_model(text)
    graph.graph.initializer.extend([numpy_helper.from_array(array, name) for name, array in weights.items()])
    return graph


def _old() -> onnx.ModelProto:
    graph = _text(
        _OLD,
        {
            **_weights(kernel=(8, 3, 3, 3), first=(8, 4)),
            "low": np.array(0, np.float32),
            "high": np.array(6, np.float32),
        },
    )
    nodes = {node.output[0]: node for node in graph.graph.node}
    ordered = [nodes[name] for name in ("c", "r", "p", "f", "u", "s", "y")]
    del graph.graph.node[:]
    graph.graph.node.extend(ordered)
    return graph


def _new() -> onnx.ModelProto:
    return _text(_NEW, {**_weights(query=(8, 8)), "scale": np.ones(8, np.float32)})


def _quantised() -> onnx.ModelProto:
    codes = np.random.default_rng(3).integers(-100, 100, (8, 4)).astype(np.int8)
    steps = {"step": np.array(0.05, np.float32), "wstep": np.array(0.01, np.float32)}
    return _text(_QUANTISED, {**steps, "zero": np.array(0, np.int8), "codes": codes})


def _external() -> onnx.ModelProto:
    return _text(_EXTERNAL, _weights(first=(8, 4)))


def _integers() -> onnx.ModelProto:
    return _text(_INTEGERS, _weights(words=(20, 8)))


def _narrow() -> onnx.ModelProto:
    return _text(_NARROW, {name: array.astype(np.float16) for name, array in _weights(first=(8, 4)).items()})


GRAPHS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "branch": lambda: _text(_BRANCH, _weights(first=(8, 4))),
    "loop": lambda: _text(_LOOP, _weights(first=(8, 8))),
    "no_batch": lambda: _text(_NO_BATCH, _weights(first=(8, 4))),
    "elsewhere": lambda: _text(_ELSEWHERE, _weights(first=(8, 4))),
    "old": _old,
    "new": _new,
    "narrow": _narrow,
    "bfloat": lambda: _text(_BFLOAT, _weights(first=(8, 4))),
    "integers": _integers,
    "quantised": _quantised,
    "external": _external,
    "constant": lambda: _text(_CONSTANT, _weights(first=(8, 4), table=(2, 4))),
    "nms": lambda: _text(_NMS, {}),
}


def make(name: str, folder: Path) -> None:
    """Writes `model.onnx`, with its weights in a file beside it for `external`."""
    graph = GRAPHS[name]()
    onnx.checker.check_model(graph)
    if name == "external":
        onnx.save(graph, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    else:
        onnx.save(graph, folder / "model.onnx")
