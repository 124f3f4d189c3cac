"""The convolutions and matrix products of a converted graph: how many are in the narrow type, and are they enough."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx

from deploytool.backends.narrow_floats import NarrowFloat
from deploytool.errors import StageFailed
from deploytool.loading.graph import structure
from deploytool.rewrites.graph import weights

OPERATORS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_MIN_CONVERTED = 0.9  # share in the narrow type of the heavy nodes that are not kept in FP32 on purpose
_MIN_NARROW = 0.5  # share in the narrow type of all heavy nodes


@dataclass(frozen=True)
class HeavyNodes:
    """The numbers of heavy nodes in total, in the narrow type, and kept in FP32 on purpose."""

    total: int
    narrow: int
    kept: int


def check(
    graph: onnx.ModelProto, kept: Collection[str], narrow: NarrowFloat, remedy: str, keep: str = ""
) -> HeavyNodes:
    """The heavy nodes of a graph in which the nodes `kept` are in FP32 on purpose.

    Raises StageFailed if too few are in the narrow type, with a remedy; `keep` is what else to do if nodes are kept.
    """
    converted, heavy = count(graph, narrow)
    kept_nodes = [node for node in graph.graph.node if node.op_type in OPERATORS and node.name in kept]
    title = f"{'an' if narrow.title == 'FP16' else 'a'} {narrow.title} graph"
    if converted < _MIN_NARROW * heavy and kept_nodes:
        named = f"{len(kept_nodes)} of {heavy} Conv, MatMul and Gemm nodes, the first the"
        problem = f"{named} {structure.label(kept_nodes[0])}, are kept in FP32: too many for {title}"
        raise StageFailed(problem, f"{keep}{remedy}")
    if converted < _MIN_CONVERTED * (heavy - len(kept_nodes)):
        some = f"only {converted} of {heavy} Conv, MatMul and Gemm nodes"
        problem = f"{some} would run in {narrow.title}: too few for {title}"
        if double := _in_double(graph):
            listed = f"{len(double)} in FP64, the first the {structure.label(double[0])}, stay so"
            raise StageFailed(f"{problem}; {listed}", f"let the model compute them in FP32, or {remedy}")
        raise StageFailed(problem, f"{remedy}, or report the model")
    return HeavyNodes(heavy, converted, len(kept_nodes))


def count(graph: onnx.ModelProto, narrow: NarrowFloat) -> tuple[int, int]:
    """The numbers of Conv, ConvTranspose, MatMul and Gemm nodes in a narrow type, and in total.

    A node that reads a tensor whose type onnx cannot infer counts as none in that type.
    """
    heavy = _with_types(graph)
    return sum(types == {narrow.element_type} for _, types in heavy), len(heavy)


def _in_double(graph: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The heavy nodes that read FP64, which the conversion leaves as they are."""
    return [node for node, types in _with_types(graph) if onnx.TensorProto.DOUBLE in types]


def _with_types(graph: onnx.ModelProto) -> list[tuple[onnx.NodeProto, set[int | None]]]:
    """Each heavy node with the element types of its inputs, None for one that onnx cannot infer."""
    typed = weights.infer_shapes(graph, strict=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*typed.input, *typed.value_info, *typed.output)}
    types |= {weight.name: weight.data_type for weight in typed.initializer}
    heavy = [node for node in typed.node if node.op_type in OPERATORS]
    return [(node, {types.get(name) for name in node.input if name}) for node in heavy]
