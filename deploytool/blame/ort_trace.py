"""An opened graph: every tensor that ONNX Runtime computes on the way, with the node that makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed

_FATAL = 4  # log severity, as in backends.onnxruntime


@dataclass(frozen=True)
class TracedTensor:
    """A floating-point tensor of a graph that depends on its inputs; `sources` are the tensors it is made from.

    `last` says that it is an output of the graph.
    """

    tensor: str
    node: str
    op: str
    sources: tuple[str, ...]
    last: bool
    values: npt.NDArray[Any]


def cast_inputs(model: onnx.ModelProto, inputs: Arrays) -> Arrays:
    """The inputs in the types that the graph declares: an FP16 graph may take halves."""
    declared = model.graph.input
    types = {each.name: onnx.helper.tensor_dtype_to_np_dtype(each.type.tensor_type.elem_type) for each in declared}
    return {name: array.astype(types[name]) for name, array in inputs.items() if name in types}


def trace(model: onnx.ModelProto, inputs: Arrays) -> tuple[TracedTensor, ...]:
    """Every point of the graph in topological order; nothing is optimised, so that every tensor exists."""
    outputs = {output.name for output in model.graph.output}
    nodes, given = input_dependent_nodes(model.graph), cast_inputs(model, inputs)
    values = all_tensors(model, given)
    floats = {name for name, value in {**values, **given}.items() if getattr(value, "dtype", np.dtype("O")).kind == "f"}
    return tuple(
        TracedTensor(
            name, node.name, node.op_type, tuple(s for s in node.input if s in floats), name in outputs, values[name]
        )
        for node in nodes
        for name in node.output
        if name in floats
    )


def all_tensors(model: onnx.ModelProto, inputs: Arrays) -> dict[str, Any]:
    """What every node of the graph makes, by the tensor's name; the model is given all of them as outputs."""
    outputs = {output.name for output in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    return dict(zip(names, run_outputs(model, names, inputs), strict=True))


def input_dependent_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that depend on an input: what is made of constants alone is a weight."""
    reached, nodes = {each.name for each in graph.input} - {each.name for each in graph.initializer}, []
    for node in graph.node:
        if reached & set(node.input):
            reached |= set(node.output)
            nodes.append(node)
    return nodes


def run_outputs(model: onnx.ModelProto, names: Sequence[str], inputs: Arrays, *, optimised: bool = False) -> list[Any]:
    """These outputs of the graph, from ONNX Runtime on the CPU; raises StageFailed if it cannot run it."""
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return list(session.run(list(names), dict(inputs)))
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise StageFailed(
            f"ONNX Runtime cannot open the graph: {error}", "see its message; is the file whole?"
        ) from error
