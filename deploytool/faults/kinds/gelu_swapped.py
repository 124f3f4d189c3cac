"""Fault: a GELU is computed by another formula: by tanh for erf, by erf for tanh, or by a sigmoid ("quick")."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph, attribute, set_attribute

_CUBIC, _TANH_SCALE, _QUICK = 0.044715, math.sqrt(2 / math.pi), 1.702
_CLOSE = 2e-3  # relative: FP16 rounds the constants


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """For every GELU, whether an operator or arithmetic, the other formulas."""
    candidates = [_operator(node) for node in graph.nodes("Gelu")]
    for node in graph.nodes("Erf"):
        candidates += [_by_tanh(node.output[0]), _quick(node.output[0])]
    for node in graph.nodes("Tanh"):
        if argument := _tanh_argument(graph, node):
            candidates.append(_by_erf(node.output[0], argument))
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _operator(node: onnx.NodeProto) -> Fault:
    output, formula = node.output[0], attribute(node, "approximate")
    other = "none" if formula is not None and formula.s == b"tanh" else "tanh"

    def plant(faulty: FaultGraph) -> None:
        gelu = faulty.producer(output)
        assert gelu is not None
        set_attribute(gelu, "approximate", other)

    return Fault(f"{output}, by {other}", plant)


def _by_tanh(output: str) -> Fault:
    """For erf(y), of y = x / √2: tanh(√(2/π) (x + 0.044715 x³))."""

    def plant(faulty: FaultGraph) -> None:
        node = faulty.producer(output)
        assert node is not None
        linear = faulty.put_scalar(f"{output}/linear", _TANH_SCALE * math.sqrt(2))
        cubic = faulty.put_scalar(f"{output}/cubic", _TANH_SCALE * math.sqrt(2) * 2 * _CUBIC)
        square, scaled, total, argument = (f"{output}/{step}" for step in ("square", "scaled", "total", "argument"))
        faulty.add_before(
            output,
            [
                helper.make_node("Mul", [node.input[0], node.input[0]], [square]),
                helper.make_node("Mul", [square, cubic], [scaled]),
                helper.make_node("Add", [scaled, linear], [total]),
                helper.make_node("Mul", [total, node.input[0]], [argument]),
            ],
        )
        faulty.replace(output, "Tanh", argument)

    return Fault(f"{output}, by tanh", plant)


def _quick(output: str) -> Fault:
    """For erf(y), of y = x / √2: 2 sigmoid(1.702 x) - 1, which is tanh(1.702 x / 2)."""

    def plant(faulty: FaultGraph) -> None:
        node = faulty.producer(output)
        assert node is not None
        argument, factor = f"{output}/argument", faulty.put_scalar(f"{output}/factor", _QUICK / math.sqrt(2))
        faulty.add_before(output, [helper.make_node("Mul", [node.input[0], factor], [argument])])
        faulty.replace(output, "Tanh", argument)

    return Fault(f"{output}, quick", plant)


def _tanh_argument(graph: FaultGraph, node: onnx.NodeProto) -> str:
    """The tensor x of tanh(√(2/π) (x + 0.044715 x³)); "" if the node computes another tanh."""
    product = graph.producer(node.input[0])
    if product is None or product.op_type != "Mul":
        return ""
    scales = [name for name in product.input if graph.has_weight(name) and graph.weight(name).size == 1]
    sums = [graph.producer(name) for name in product.input if name not in scales]
    if len(scales) != 1 or not np.isclose(float(graph.weight(scales[0]).item()), _TANH_SCALE, rtol=_CLOSE):
        return ""
    if len(sums) != 1 or sums[0] is None or sums[0].op_type != "Add":
        return ""
    producers = {name: graph.producer(name) for name in sums[0].input}
    plain = [name for name, made in producers.items() if made is None or not _is_cubic(graph, made)]
    return str(plain[0]) if (len(plain), len(producers)) == (1, 2) else ""


def _is_cubic(graph: FaultGraph, node: onnx.NodeProto) -> bool:
    """Whether a product has the factor of the cubic term."""
    factors = [name for name in node.input if graph.has_weight(name) and graph.weight(name).size == 1]
    values = [float(graph.weight(name).item()) for name in factors]
    return node.op_type == "Mul" and any(np.isclose(value, _CUBIC, rtol=_CLOSE) for value in values)


def _by_erf(output: str, argument: str) -> Fault:
    def plant(faulty: FaultGraph) -> None:
        scaled, factor = f"{output}/scaled", faulty.put_scalar(f"{output}/factor", 1 / math.sqrt(2))
        faulty.add_before(output, [helper.make_node("Mul", [argument, factor], [scaled])])
        faulty.replace(output, "Erf", scaled)

    return Fault(f"{output}, by erf", plant)
