"""Raises the opset of a graph to the first in which the operators accept a type."""

from __future__ import annotations

import onnx
from onnx import version_converter

from deploytool.rewrites.graph import weights

_STANDARD = ("", "ai.onnx")


def raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The graph in that opset, with its weights and the names of its nodes; the same object if it has no older one.

    Raises what the version converter of onnx raises, of any class.
    """
    if max(int(entry.version) for entry in model.opset_import if entry.domain in _STANDARD) >= opset:
        return model
    big = {weight.name: weight for weight in model.graph.initializer if weights.is_big(weight)}
    converted = version_converter.convert_version(_with_inputs_for(model, big), opset)
    _restore_weights(converted.graph, model.graph, big)
    converted.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for(converted.opset_import))
    converted.producer_name, converted.producer_version = model.producer_name, model.producer_version
    return converted


def _with_inputs_for(model: onnx.ModelProto, big: dict[str, onnx.TensorProto]) -> onnx.ModelProto:
    """A copy with inputs in place of big weights: the converter would copy their values several times."""
    copy = weights.without_contents(model)
    copy.graph.node.extend(model.graph.node)
    copy.graph.initializer.extend(weight for weight in model.graph.initializer if weight.name not in big)
    copy.graph.input.extend(
        onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims) for weight in big.values()
    )
    return copy


def _restore_weights(graph: onnx.GraphProto, original: onnx.GraphProto, big: dict[str, onnx.TensorProto]) -> None:
    """Makes initializers of the inputs that stand for big weights; keeps the order of the original graph."""
    inputs = [value for value in graph.input if value.name not in big]
    small = {weight.name: weight for weight in graph.initializer}
    known = [big.get(weight.name) or small.pop(weight.name) for weight in original.initializer]
    added = list(small.values())
    del graph.input[:], graph.initializer[:]
    graph.input.extend(inputs)
    graph.initializer.extend([*known, *added])
