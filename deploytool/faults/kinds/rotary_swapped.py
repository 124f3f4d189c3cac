"""Fault: rotary positions turn the wrong way, or have cosine and sine swapped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from deploytool.faults.kinds.families import Fault
from deploytool.faults.kinds.graph import FaultGraph

_VIEWS = ("Unsqueeze", "Slice", "Cast", "Concat", "Expand", "Identity", "Gather", "Reshape", "Mul")
_CLOSE, _DEPTH = 4e-3, 6  # of cos² + sin², in FP16; nodes between an operator and its use


@dataclass(frozen=True)
class Rotation:
    """The outputs of the two products that a rotation adds, and their tables: of cosines, then of sines."""

    first: str
    second: str
    cosines: str
    sines: str


def faults(graph: FaultGraph, rng: np.random.Generator) -> Iterator[Fault]:
    """Two faults for every rotation, and two for all: cosine and sine swapped, and turned the wrong way."""
    rotations = [found for node in graph.nodes("Add") if (found := _rotation(graph, node)) is not None]
    sets = [[rotation] for rotation in rotations] + ([rotations] if len(rotations) > 1 else [])
    candidates = [fault for each in sets for fault in (_swapped(each), _turned(each))]
    candidates += [_of_operator(node) for node in graph.nodes("RotaryEmbedding")]
    yield from rng.permutation(np.array(candidates, object)) if candidates else ()


def _rotation(graph: FaultGraph, node: onnx.NodeProto) -> Rotation | None:
    """The rotation whose last step a node is; None if it is another addition."""
    products = [graph.producer(name) for name in node.input]
    tables: dict[str, tuple[str, str]] = {}
    for product in products:
        if product is None or product.op_type != "Mul":
            return None
        for name in product.input:
            if kind := _kind(graph, name, _DEPTH):
                tables[kind] = product.output[0], name
    if {"cos", "sin"} <= set(tables):
        return Rotation(tables["cos"][0], tables["sin"][0], tables["cos"][1], tables["sin"][1])
    return _constant_rotation(graph, [product for product in products if product is not None])


def _kind(graph: FaultGraph, tensor: str, depth: int) -> str:
    """Whether a tensor is made of cosines or of sines that the graph computes: "cos", "sin" or ""."""
    node = graph.producer(tensor)
    if node is None or not depth:
        return ""
    if node.op_type in ("Cos", "Sin"):
        return str(node.op_type).lower()
    return _kind(graph, node.input[0], depth - 1) if node.op_type in _VIEWS else ""


def _constant_rotation(graph: FaultGraph, products: list[onnx.NodeProto]) -> Rotation | None:
    """The same where both tables are constants: their squares add up to one; cosines begin with one."""
    held = [(product.output[0], name) for product in products for name in product.input if graph.has_weight(name)]
    if len(held) != 2 or held[0][0] == held[1][0]:
        return None
    first, second = (graph.weight(name).astype(np.float64) for _, name in held)
    if first.shape != second.shape or first.ndim < 2 or not np.allclose(first**2 + second**2, 1, atol=_CLOSE):
        return None
    (cosines, sines) = held if abs(first.flat[0]) >= abs(second.flat[0]) else held[::-1]
    return Rotation(cosines[0], sines[0], cosines[1], sines[1])


def _swapped(rotations: Sequence[Rotation]) -> Fault:
    def plant(faulty: FaultGraph) -> None:
        for each in rotations:
            for output, old, new in ((each.first, each.cosines, each.sines), (each.second, each.sines, each.cosines)):
                product = faulty.producer(output)
                assert product is not None
                product.input[:] = [new if name == old else name for name in product.input]

    return Fault(f"cosine and sine of {_names(rotations)}", plant)


def _turned(rotations: Sequence[Rotation]) -> Fault:
    def plant(faulty: FaultGraph) -> None:
        for each in rotations:
            faulty.insert(each.second, "Mul", np.array(-1.0, np.float32))

    return Fault(f"sign of {_names(rotations)}", plant)


def _names(rotations: Sequence[Rotation]) -> str:
    return ", ".join(each.second for each in rotations)


def _of_operator(node: onnx.NodeProto) -> Fault:
    output = node.output[0]

    def plant(faulty: FaultGraph) -> None:
        changed = faulty.producer(output)
        assert changed is not None
        changed.input[1], changed.input[2] = changed.input[2], changed.input[1]

    return Fault(f"cosine and sine of {output}", plant)
