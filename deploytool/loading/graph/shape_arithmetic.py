"""Finds the nodes that only compute sizes and indices from shapes: rounding them otherwise would change the shapes.

Exporters compute the size of a Resize as `floor(float(size) × scale)`: perturbed by one rounding error, the floor is
another, and the graph does not run. A table of positions also begins with a shape, but its values are data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx
from onnx import TensorProto

from deploytool.loading.graph import preparation

_SHAPES = ("Shape", "Size")
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_SIZE_INPUTS: Mapping[str, Collection[int]] = {
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "TopK": (1,),
    "NonMaxSuppression": (2, 3, 4),
}  # floats that are sizes or limits, by operator


def constants_of_sizes(graph: onnx.GraphProto, shape_nodes: Collection[int]) -> set[str]:
    """The tensors that shape arithmetic reads, and those that are sizes: rounded, they would be other sizes."""
    names = {name for index in shape_nodes for name in graph.node[index].input}
    for node in graph.node:
        names |= {node.input[number] for number in _SIZE_INPUTS.get(node.op_type, ()) if number < len(node.input)}
    return names


def find(graph: onnx.GraphProto, constants: Collection[str], types: Mapping[str, int]) -> set[int]:
    """The indices of nodes that compute from shapes and constants, and whose results end in sizes or integers."""
    known = set(constants)
    candidates = set[int]()
    for index, node in enumerate(graph.node):
        names = [name for name in node.input if name]
        if node.op_type in _SHAPES:
            known.update(node.output)
        elif preparation.subgraphs(node):
            continue
        elif names and known.issuperset(names):
            known.update(node.output)
            candidates.add(index)
    return _bound_to_integers(graph, candidates, types)


def _bound_to_integers(graph: onnx.GraphProto, candidates: Collection[int], types: Mapping[str, int]) -> set[int]:
    """The candidates whose results no other arithmetic reads as floats."""
    data = {value.name for value in graph.output}  # tensors that are data if they are floats
    bound = set[int]()
    for index, node in reversed([*enumerate(graph.node)]):
        outputs = [name for name in node.output if name]
        is_float = any(types.get(name, TensorProto.FLOAT) in _FLOATS for name in outputs)
        if index in candidates and not (is_float and any(name in data for name in outputs)):
            bound.add(index)
            continue
        sizes = _SIZE_INPUTS.get(node.op_type, ())
        data |= {name for number, name in enumerate(node.input) if number not in sizes}
        data |= {name for body in preparation.subgraphs(node).values() for name in preparation.free_names(body)}
    return bound
