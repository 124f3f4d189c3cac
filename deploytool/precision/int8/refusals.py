"""Forms of Q/DQ nodes that TensorRT does not take, in a graph that came with them, as from training with quantisation.

TensorRT multiplies INT8 by INT8 with scales that are constant, one for an activation and one a channel for weights, and
zero points of 0. Sources: "Working with Quantized Types" in the documentation of TensorRT 10 and 11; the parser of
TensorRT-RTX 1.7.1, which was tried with each form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from deploytool.rewrites.graph.editable import EditableGraph, attributes
from deploytool.spec import StrEnum


class Form(StrEnum):
    """What is refused."""

    ASYMMETRIC = "asymmetric"
    UINT8 = "uint8"
    WIDE_INTEGERS = "wide integers"
    INT32_BIAS = "int32 bias"
    CHANNEL_ACTIVATION = "activation by channel"
    UNPAIRED_QUANTIZE = "quantize without dequantize"
    COMPUTED_SCALE = "computed scale"
    NOT_POSITIVE_SCALE = "scale not positive"
    INTEGER_OPERATOR = "integer operator"


# Forms that the parser of TensorRT-RTX 1.7.1 takes nevertheless; what it makes of them has not been run.
PARSED = frozenset((Form.UINT8, Form.CHANNEL_ACTIVATION, Form.UNPAIRED_QUANTIZE))

_SENTENCES = {
    Form.ASYMMETRIC: "has a zero point that is not 0",
    Form.UINT8: "is of type UINT8",
    Form.WIDE_INTEGERS: "is of integers wider than 8 bits",
    Form.INT32_BIAS: "dequantizes INT32, such as a bias",
    Form.CHANNEL_ACTIVATION: "has a scale for each channel of an activation",
    Form.UNPAIRED_QUANTIZE: "has a result that no DequantizeLinear reads",
    Form.COMPUTED_SCALE: "has a scale or zero point that is not constant",
    Form.NOT_POSITIVE_SCALE: "has a scale that is not positive",
    Form.INTEGER_OPERATOR: "is an operator on integers",
}
_INTEGER_OPERATORS = (
    *("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
    *("QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearMul"),
)
_QUANTIZING = ("QuantizeLinear", "DequantizeLinear")
_NARROW = (TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1)


@dataclass(frozen=True)
class Refusal:
    """A node in a form that TensorRT does not take; `node` is its name, or else its first output."""

    form: Form
    node: str
    operator: str

    @property
    def sentence(self) -> str:
        """What is refused, for people."""
        return f"{self.operator} {self.node} {_SENTENCES[self.form]}"


def refusals(model: onnx.ModelProto) -> tuple[Refusal, ...]:
    """Every node in a form that TensorRT does not take, in graph order; a node may have several."""
    graph, types = EditableGraph(model), _element_types(model)
    found = []
    for node in graph.nodes:
        forms: Iterator[Form] = iter(())
        if node.op_type in _INTEGER_OPERATORS:
            forms = iter((Form.INTEGER_OPERATOR,))
        elif node.op_type in _QUANTIZING:
            forms = _forms(graph, node, types)
        found += [Refusal(form, node.name or node.output[0], node.op_type) for form in forms]
    return tuple(found)


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    """The types of weights and inputs, and of constants."""
    types = {weight.name: weight.data_type for weight in model.graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    constants = (node for node in model.graph.node if node.op_type == "Constant")
    return types | {
        node.output[0]: each.t.data_type for node in constants for each in node.attribute if each.t.data_type
    }


def _forms(graph: EditableGraph, node: NodeProto, types: dict[str, int]) -> Iterator[Form]:
    """The refused forms of a Q or DQ node."""
    kind = _integer_type(graph, node, types)
    is_weight = _is_constant(graph, node)
    if kind == TensorProto.INT32:
        yield Form.INT32_BIAS
        return
    if kind == TensorProto.UINT8:
        yield Form.UINT8
    elif kind not in _NARROW:
        yield Form.WIDE_INTEGERS
    scale = graph.constant(node.input[1])
    zero = graph.constant(node.input[2]) if _has_zero(node) else np.zeros((), np.int8)
    if scale is None or zero is None:
        yield Form.COMPUTED_SCALE
    else:
        if np.any(zero.astype(np.float32) != 0):
            yield Form.ASYMMETRIC
        if not np.all(scale.astype(np.float32) > 0):
            yield Form.NOT_POSITIVE_SCALE
        if scale.size > 1 and not is_weight:
            yield Form.CHANNEL_ACTIVATION
    readers = graph.consumers(node.output[0])
    paired = all(each.op_type == "DequantizeLinear" for each in readers) and node.output[0] not in graph.outputs
    if node.op_type == "QuantizeLinear" and not (readers and paired):
        yield Form.UNPAIRED_QUANTIZE


def _has_zero(node: NodeProto) -> bool:
    return len(node.input) > 2 and bool(node.input[2])


def _integer_type(graph: EditableGraph, node: NodeProto, types: dict[str, int]) -> int:
    """The type of the integers of a Q or DQ node; UINT8, ONNX's default, where nothing says it."""
    if _has_zero(node) and node.input[2] in types:
        return types[node.input[2]]
    if node.op_type == "QuantizeLinear":
        return int(attributes(node).get("output_dtype", 0)) or TensorProto.UINT8
    producer = graph.producer(node.input[0])
    if producer is not None and producer.op_type == "QuantizeLinear":
        return _integer_type(graph, producer, types)
    return types.get(node.input[0], TensorProto.UINT8)


def _is_constant(graph: EditableGraph, node: NodeProto) -> bool:
    """Whether a Q or DQ node has a weight: a constant, or what a Q node makes of one."""
    producer = graph.producer(node.input[0])
    if producer is not None and producer.op_type == "QuantizeLinear":
        return _is_constant(graph, producer)
    return graph.constant(node.input[0]) is not None
