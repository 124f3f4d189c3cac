"""Lists the convolutions and matrix products of a graph in a child process: shape inference can crash on a file."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def main() -> None:
    """Writes name, operator, output shape, weight shape, groups, parameters and multiply-accumulates of each, as JSON.

    The task on stdin is the path of the graph, the sizes of its inputs by name, and the path of the result.
    """
    import onnx

    path, sizes, result = json.loads(sys.stdin.readline())
    model = onnx.load(path, load_external_data=False)
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, sizes.get(value.name, ()), strict=False):
            dim.dim_value = size
    weights = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            weights[node.output[0]] = tuple(node.attribute[0].t.dims)
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    layers = [layer for node in graph.node if (layer := _layer(node, weights, shapes)) is not None]
    with Path(result).open("w", encoding="utf-8") as file:
        json.dump(layers, file)


def _layer(node: Any, weights: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]]) -> list[Any] | None:
    """One layer; None for any other node."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or node.input[1] not in weights:
        return None
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    weight, output = weights[node.input[1]], shapes.get(node.output[0], [])
    bias = weights.get(node.input[2], ()) if len(node.input) > 2 else ()
    parameters = math.prod(weight) + (math.prod(bias) if bias else 0)
    if node.op_type == "ConvTranspose":
        macs = math.prod(shapes.get(node.input[0], [0])) * math.prod(weight[1:])
    elif node.op_type == "Conv":
        macs = math.prod(output) * math.prod(weight[1:]) if output else 0
    else:
        inner = weight[1] if attributes.get("transB") else weight[-2] if len(weight) > 1 else weight[0]
        macs = math.prod(output) * inner if output else 0
    name = node.name or node.output[0]
    return [name, node.op_type, list(output[1:]), list(weight), attributes.get("group", 1), parameters, macs]
