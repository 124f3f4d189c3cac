"""Prepares a graph for interpretation: inlines its own functions, infers the element types of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import onnx
from onnx import AttributeProto, inliner, shape_inference

from deploytool.errors import StageFailed
from deploytool.host import exception_text
from deploytool.loading.graph.element_types import UNKNOWN

# the place in the source of onnx, before the message
_ASSERTION = re.compile(r"(?:\S+\.(?:cc|cpp|h):\d+: )?(?:\w+: )?Assertion `.*?` failed: ")
_SMALL = 1024  # bytes of an initialiser that type inference may read

Types = Mapping[str, int]  # element types by tensor name


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its own functions inlined; the initialisers of the main graph keep their place in memory.

    Raises StageFailed if a function cannot be inlined.
    """
    if not model.functions:
        return model
    bare = _without_large_tensors(model)
    try:
        result = inliner.inline_local_functions(bare, convert_version=True)
    except Exception as error:  # the errors of a library in C++
        reason = _ASSERTION.sub("", exception_text.one_line(error))
        problem = f"the functions of the graph cannot be inlined: {reason}"
        raise StageFailed(problem, "export the graph without functions") from error
    del result.graph.initializer[:]
    result.graph.initializer.extend(model.graph.initializer)
    used = {"", *(node.domain for graph in _graphs(result.graph) for node in graph.node)}
    kept = [entry for entry in result.opset_import if entry.domain in used or entry.domain == "ai.onnx"]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    return result


def infer_types(model: onnx.ModelProto) -> Types:
    """The element types of all tensors, those of subgraphs included; tensors that inference does not reach are absent.

    Sequences and optionals have the type of their elements.
    """
    try:
        inferred = shape_inference.infer_shapes(_without_large_tensors(model))
    except Exception:  # a graph that inference rejects may still be computable
        inferred = _without_large_tensors(model)
    types: dict[str, int] = {}
    for graph in _graphs(inferred.graph):
        for value in (*graph.input, *graph.value_info, *graph.output):
            types.setdefault(value.name, element_type(value.type))
        for tensor in graph.initializer:
            types[tensor.name] = tensor.data_type
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {name: kind for name, kind in types.items() if kind != UNKNOWN}


def element_type(type_: onnx.TypeProto) -> int:
    """The element type of a tensor, or of the tensors in a sequence or optional."""
    kind = type_.WhichOneof("value")
    if kind == "sequence_type":
        return element_type(type_.sequence_type.elem_type)
    if kind == "optional_type":
        return element_type(type_.optional_type.elem_type)
    return type_.tensor_type.elem_type if kind == "tensor_type" else UNKNOWN


def subgraphs(node: onnx.NodeProto) -> dict[str, onnx.GraphProto]:
    """The subgraphs of a node by attribute."""
    return {item.name: item.g for item in node.attribute if item.type == AttributeProto.GRAPH}


def free_names(graph: onnx.GraphProto) -> list[str]:
    """The tensors that a subgraph reads from the graphs around it, each once, in order."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    free: dict[str, None] = {}
    for node in graph.node:
        inner = [name for body in subgraphs(node).values() for name in free_names(body)]
        free.update(dict.fromkeys(name for name in (*node.input, *inner) if name and name not in own))
        own |= set(node.output)
    free.update(dict.fromkeys(value.name for value in graph.output if value.name not in own))
    return list(free)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for body in subgraphs(node).values():
            yield from _graphs(body)


def _without_large_tensors(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large initialisers of the main graph are inputs: copying and inference need no weights."""
    bare = onnx.ModelProto()
    bare.ir_version = model.ir_version
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    bare.graph.name = model.graph.name
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    bare.graph.output.extend(model.graph.output)
    bare.graph.value_info.extend(model.graph.value_info)
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return bare
