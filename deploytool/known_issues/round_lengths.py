"""Finds lengths that are computed from an input: TensorRT computes them in BF16, which holds integers up to 256.

Reported for the encoder of NeMo Parakeet (NVIDIA/TensorRT#4822, open), built with BF16, with TensorRT 10.14 and 11.1 on
an RTX 5090 (compute capability 12.0); compute capabilities 8.6 and 8.7 were right. A length of 12000 became 1504 and
not 1500. The thread describes a second error, of the encoder's output in FP32 too, whose pattern is not known here.

The pattern is an integer tensor that is computed from an integer input of the graph, or from a sum over one, by
elementwise arithmetic with a division and an addition or subtraction, and that something else reads. So it matches the
lengths after convolutions with a stride, not sizes that are computed from the shape of an input, not masks and tokens,
and not integer images that are normalised (their result is no integer).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deploytool.known_issues import dataflow
from deploytool.known_issues.place import AffectedReleases, Place

if TYPE_CHECKING:
    import onnx

ISSUE = "NVIDIA/TensorRT#4822"
AFFECTED: tuple[AffectedReleases, ...] = (
    AffectedReleases("tensorrt", since="10.14", fixed_in=None, capabilities=("12.0",)),
)
WORKAROUND: str | None = "compute the lengths outside the model"
MOST_PROBES: int | None = 4

_INTEGERS = {dataflow.INT32, dataflow.INT64}
_SUMS = {"CumSum", "ReduceSum"}
_ARITHMETIC = {"Add", "Cast", "Ceil", "Div", "Floor", "Mul", "Sub"}
_FLOOR = {"And", "Equal", "Less", "Mod", "Not", "Xor"}  # of a division that rounds towards minus infinity
_CHAIN = _ARITHMETIC | _FLOOR | dataflow.ONE_DATA_INPUT

Chains = Mapping[str, tuple["onnx.NodeProto", ...]]  # the nodes that compute a tensor from integers, in graph order


def find(graph: onnx.GraphProto) -> tuple[Place, ...]:
    """Every match in the graph, in graph order: each tensor where a chain, or a part of it, is read."""
    types = dataflow.element_types(graph)
    chains, readers = _chains(graph, types), dataflow.consumers(graph)
    outputs = {output.name for output in graph.output}
    places = []
    for tensor, chain in chains.items():
        operators = {node.op_type for node in chain}
        if (
            "Div" in operators
            and operators & {"Add", "Sub"}
            and chain[-1].op_type in _ARITHMETIC
            and types.get(tensor) in _INTEGERS
            and (tensor in outputs or _is_read(tensor, chains, readers))
        ):
            division = next(node for node in chain if node.op_type == "Div")
            places.append(Place(tensor, (division.name, chain[-1].name)))
    return tuple(places)


def _chains(graph: onnx.GraphProto, types: Mapping[str, int]) -> Chains:
    produced = dataflow.producers(graph)
    chains: dict[str, tuple[onnx.NodeProto, ...]] = {
        name: () for name, node in produced.items() if node is None and types.get(name) in _INTEGERS
    }
    for node in graph.node:
        data = node.input[:1] if node.op_type in dataflow.ONE_DATA_INPUT else node.input
        parts = [chains.get(name) for name in data if name in produced]
        if node.op_type in _SUMS and parts and types.get(node.output[0]) in _INTEGERS:
            chains[node.output[0]] = ()
        elif node.op_type in _CHAIN and parts and None not in parts:
            before = {id(step): step for part in parts for step in part or ()}
            chains[node.output[0]] = (*before.values(), node)
    return chains


def _is_read(tensor: str, chains: Chains, readers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    """Whether a node beyond the chain reads a tensor, perhaps after moving it."""
    return any(
        node.output[0] not in chains
        or node.op_type in _FLOOR
        or (node.op_type in dataflow.ONE_DATA_INPUT - {"Cast"} and _is_read(node.output[0], chains, readers))
        for node in readers.get(tensor, ())
    )
