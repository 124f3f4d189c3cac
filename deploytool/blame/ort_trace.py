"""Computes every intermediate tensor of an ONNX graph with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from deploytool.backends import onnxruntime
from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.rewrites.graph import weights

_FATAL = 4  # log severity, as in backends.onnxruntime


@dataclass(frozen=True)
class TracedTensor:
    """A floating-point tensor that depends on the graph's inputs; `sources` are the tensors it is computed from.

    `last` marks an output of the graph.
    """

    tensor: str
    node: str
    op: str
    sources: tuple[str, ...]
    last: bool
    values: npt.NDArray[Any]


def cast_inputs(model: onnx.ModelProto, inputs: Arrays) -> Arrays:
    """The inputs in the types that the graph declares: an FP16 graph may take FP16 inputs."""
    types = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        for value in model.graph.input
    }
    return {name: array.astype(types[name]) for name, array in inputs.items() if name in types}


def trace(model: onnx.ModelProto, inputs: Arrays) -> tuple[TracedTensor, ...]:
    """The floating-point tensors of the graph in topological order, computed without graph optimisation."""
    outputs = {output.name for output in model.graph.output}
    nodes, arrays = input_dependent_nodes(model.graph), cast_inputs(model, inputs)
    values = all_tensors(model, arrays)
    dtypes = {name: getattr(value, "dtype", np.dtype("O")) for name, value in {**values, **arrays}.items()}
    floats = {name for name, dtype in dtypes.items() if dtype.kind == "f"}
    return tuple(
        TracedTensor(
            tensor=name,
            node=node.name,
            op=node.op_type,
            sources=tuple(source for source in node.input if source in floats),
            last=name in outputs,
            values=values[name],
        )
        for node in nodes
        for name in node.output
        if name in floats
    )


def all_tensors(model: onnx.ModelProto, inputs: Arrays) -> dict[str, Any]:
    """The result of every node by tensor name; changes the model, which gets all of them as outputs."""
    outputs = {output.name for output in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    return dict(zip(names, run_outputs(model, names, inputs), strict=True))


def input_dependent_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that depend on an input; the others compute constants."""
    dependent = {value.name for value in graph.input} - {weight.name for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        if dependent & set(node.input):
            dependent |= set(node.output)
            nodes.append(node)
    return nodes


def run_outputs(model: onnx.ModelProto, names: Sequence[str], inputs: Arrays, *, optimised: bool = False) -> list[Any]:
    """These outputs of the graph, from ONNX Runtime on the CPU; raises StageFailed if it cannot run the graph."""
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    onnxruntime.set_arithmetic(options)
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        parts = weights.session_parts(model)
        onnxruntime.pass_weights(options, parts.arrays, parts.folder)
        session = ort.InferenceSession(parts.message, options, providers=["CPUExecutionProvider"])
        return list(session.run(list(names), dict(inputs)))
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        problem = f"ONNX Runtime cannot open the graph: {error}"
        raise StageFailed(problem, "see the message, and check that the file is complete") from error
