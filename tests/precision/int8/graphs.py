"""Small graphs with random weights, each with what a placement rule is about."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

from deploytool.results.int8_forms import Form

INT8_FORMS: tuple[Form, ...] = tuple(form for form in Form if form is not Form.E4M3)
HEAD = '<ir_version: 8, opset_import: ["" : 18]> g (float[batch,8,12,12] x) => (float[batch,N] y)'
TAIL = "p = GlobalAveragePool({0}) f = Flatten(p) y = Gemm<transB=1>(f, fc, fb)"
FC = {"fc": (10, 8), "fb": (10,)}
CONV = {"w0": (8, 8, 3, 3), "b0": (8,), "w1": (8, 8, 1, 1), "b1": (8,)}
FIRST = "a = Conv<pads=[1,1,1,1]>(x, w0, b0) r = Relu(a)"
SWISH = "c = Conv(r, w1, b1) g = Sigmoid(c) m = Mul(c, g)"
SHUFFLE = """c = Conv<group=2>(r, wg, b1) s = Reshape(c, split) t = Transpose<perm=[0,2,1,3,4]>(s) u = Reshape(t, join)
    d = Conv<group=8, pads=[1,1,1,1]>(u, wd, b1) e = Conv<group=2>(d, wg2, b1) q = Add(r, e) z = Relu(q)"""
GATE = """c = Conv(r, w1, b1) s = GlobalAveragePool(c) d = Conv(s, wa, ba) e = Relu(d) k = Conv(e, wb, b1)
    h = Sigmoid(k) m = Mul(c, h)"""
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "residual": (f"{FIRST} c = Conv(r, w1, b1) d = Add(c, r) e = Relu(d) {TAIL.format('e')}", {**CONV, **FC}),
    "concat": (
        f"{FIRST} c = Conv(r, w1, b1) d = Relu(c) e = Conv(r, w2, b1) h = Relu(e) i = Concat<axis=1>(d, h) "
        f"k = Conv(i, w3, b1) z = Relu(k) {TAIL.format('z')}",
        {**CONV, "w2": (8, 8, 1, 1), "w3": (8, 16, 1, 1), **FC},
    ),
    "concat, then Relu": (
        f"{FIRST} c = Conv(r, w1, b1) e = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(r) "
        f"i = Concat<axis=1>(c, e) j = Relu(i) k = Conv(j, w3, b1) {TAIL.format('k')}",
        {**CONV, "w3": (8, 16, 1, 1), **FC},
    ),
    "swish": (f"{FIRST} {SWISH} k = Conv(m, w2, b1) {TAIL.format('k')}", {**CONV, "w2": (8, 8, 1, 1), **FC}),
    "hard-swish": (
        f"{FIRST} c = Conv(r, w1, b1) h = HardSwish(c) k = Conv(h, w2, b1) {TAIL.format('k')}",
        {**CONV, "w2": (8, 8, 1, 1), **FC},
    ),
    "shuffle": (
        f"{FIRST} {SHUFFLE} {TAIL.format('z')}",
        {**CONV, "wg": (8, 4, 1, 1), "wd": (8, 1, 3, 3), "wg2": (8, 4, 1, 1), **FC},
    ),
    "gate": (
        f"{FIRST} {GATE} n = Conv(m, w2, b1) {TAIL.format('n')}",
        {**CONV, "w2": (8, 8, 1, 1), "wa": (4, 8, 1, 1), "ba": (4,), "wb": (8, 4, 1, 1), **FC},
    ),
    "pooled": (
        f"{FIRST} d = MaxPool<kernel_shape=[3,3], strides=[2,2]>(r) c = Conv(d, w1, b1) e = Clip(c, zero, six) "
        f"h = Conv<group=8, pads=[1,1,1,1]>(e, wd, b1) {TAIL.format('h')}",
        {**CONV, "wd": (8, 1, 3, 3), **FC},
    ),
}
INTEGERS = {"split": [0, 2, 4, 12, 12], "join": [0, 8, 12, 12]}
LIMITS = {"zero": 0.0, "six": 6.0}


def weighted(text: str, sizes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """A parsed graph with weights of those sizes, and with the constants that it names."""
    graph, generator = parser.parse_model(text), np.random.default_rng(0)
    read = {name for node in graph.graph.node for name in node.input}
    arrays: dict[str, Any] = {name: np.array(values, np.int64) for name, values in INTEGERS.items() if name in read}
    arrays |= {name: np.array(value, np.float32) for name, value in LIMITS.items() if name in read}
    for name, size in sizes.items():
        arrays[name] = (generator.normal(size=size) / math.sqrt(math.prod(size[1:]))).astype(np.float32)
    graph.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    for node in graph.graph.node:
        node.name = f"/{node.output[0]}/{node.op_type}"
    return graph


def body(name: str) -> onnx.ModelProto:
    """A classifier of 8×12×12 maps: input x, output y with ten scores."""
    nodes, sizes = BODIES[name]
    return weighted(f"{HEAD} {{{nodes}}}", sizes)


def inputs(items: int = 2) -> dict[str, np.ndarray[Any, Any]]:
    return {"x": np.random.default_rng(1).normal(size=(items, 8, 12, 12)).astype(np.float32)}
