"""Divides an INT8 graph into its kernels: all that is computed from one pair of Q/DQ nodes to the next.

A piece reads what the pairs before it dequantise, and has these pairs itself, so a runtime fuses it as it does in the
whole graph; a value on the grid of a pair stays as it is. So each kernel can be fed with the very integers that another
runtime has there, and a step in an early layer moves no later one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Piece:
    """A kernel as a graph of its own.

    `inputs` has, by the name of each input, the tensor of the whole graph that it takes; `output` is the tensor that
    it gives, in steps of `step`; `kind` names its operators without Q/DQ nodes.
    """

    model: onnx.ModelProto
    inputs: Mapping[str, str]
    output: str
    step: float
    kind: str

    @property
    def is_heavy(self) -> bool:
        """Whether it has a convolution or a product."""
        return any(op in self.kind.split() for op in _HEAVY)


class _Graph:
    """The nodes and constants of a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.shape_inference.infer_shapes(model)
        self.weights = {weight.name: weight for weight in model.graph.initializer}
        self.makers = {name: node for node in model.graph.node for name in node.output}
        known = (*self.model.graph.value_info, *self.model.graph.input, *self.model.graph.output)
        self.types = {value.name: value.type for value in known}

    def is_constant(self, tensor: str) -> bool:
        node = self.makers.get(tensor)
        return tensor in self.weights or (node is not None and all(map(self.is_constant, node.input)))

    def pair_before(self, tensor: str) -> NodeProto | None:
        """The node that quantises what this tensor dequantises; None for other tensors."""
        node = self.makers.get(tensor)
        if node is None or node.op_type != DEQUANTIZE or self.is_constant(tensor):
            return None
        return self.makers.get(node.input[0])


def quantised_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """The dequantised activations of a graph."""
    graph = _Graph(model)
    return tuple(node.output[0] for node in model.graph.node if node.output and graph.pair_before(node.output[0]))


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy in which these tensors are outputs too."""
    copy, graph = onnx.ModelProto(), _Graph(model)
    copy.CopyFrom(model)
    present = {output.name for output in copy.graph.output}
    for name in names:
        if name not in present:
            copy.graph.output.append(onnx.ValueInfoProto(name=name, type=graph.types[name]))
    return copy


def divide(model: onnx.ModelProto) -> Iterator[Piece]:
    """The kernels of a graph, in its order; what no pair follows, such as the last layer, is in none."""
    graph = _Graph(model)
    for output in quantised_tensors(model):
        yield _piece(graph, output)


def _piece(graph: _Graph, output: str) -> Piece:
    last, quantize = graph.makers[output], graph.pair_before(output)
    assert quantize is not None
    nodes: dict[str, NodeProto] = {last.output[0]: last, quantize.output[0]: quantize}
    inputs: dict[str, str] = {}
    pending, inner = [quantize.input[0]], list[str]()
    while pending:
        tensor = pending.pop()
        node = graph.makers.get(tensor)
        if tensor in nodes or tensor in inputs or tensor in graph.weights or not tensor:
            continue
        before = graph.pair_before(tensor)
        if before is not None and node is not None:
            _add_pair(nodes, inputs, before, node)
        elif node is None:
            inputs[tensor] = tensor
        else:
            nodes[tensor] = node
            inner += [] if graph.is_constant(tensor) else [node.op_type]
            pending += node.input
    model = _model(graph, nodes, inputs, output)
    step = float(numpy_helper.to_array(graph.weights[last.input[1]]))
    return Piece(model, inputs, output, step, " ".join(reversed(inner)) or QUANTIZE)


def _add_pair(nodes: dict[str, NodeProto], inputs: dict[str, str], quantize: NodeProto, dequantize: NodeProto) -> None:
    """Adds the pair before a piece, which reads an input of its own."""
    own, tensor = NodeProto(), str(dequantize.output[0])
    own.CopyFrom(quantize)
    own.input[0] = f"{tensor}/given"
    nodes[own.output[0]], nodes[tensor] = own, dequantize
    inputs[own.input[0]] = tensor


def _model(graph: _Graph, nodes: Mapping[str, NodeProto], inputs: Mapping[str, str], output: str) -> onnx.ModelProto:
    order = {name: index for index, node in enumerate(graph.model.graph.node) for name in node.output}
    ordered = list({id(node): node for _, node in sorted(nodes.items(), key=lambda item: order[item[0]])}.values())
    used = {name for node in ordered for name in node.input}
    taken = [_value(graph, name, tensor) for name, tensor in inputs.items()]
    weights = [weight for name, weight in graph.weights.items() if name in used]
    return helper.make_model(
        helper.make_graph(ordered, "piece", taken, [_value(graph, output, output)], weights),
        opset_imports=graph.model.opset_import,
        ir_version=graph.model.ir_version,
    )


def _value(graph: _Graph, name: str, tensor: str) -> onnx.ValueInfoProto:
    """An input or output of a piece with the shape of a tensor of the graph."""
    dims = [dim.dim_value or dim.dim_param or None for dim in graph.types[tensor].tensor_type.shape.dim]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def steps(got: Array, expected: Array, step: float) -> Array:
    """How many steps each integer is away from that expected."""
    distance: Array = np.rint(np.abs(got.astype(np.float64) - expected) / step).ravel()
    return distance
