"""Infers the shapes of the tensors of a graph, and which dimensions are the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from onnx import ModelProto, ValueInfoProto, helper

Shape = tuple[int | None, ...]

_SMALL = 64  # elements: constants that specify a shape are not larger
_BATCHES = (5, 7)


def without_large_weights(model: ModelProto) -> ModelProto:
    """The model with its larger weights as inputs: shapes do not depend on their values, and it is fast to pass on."""
    graph, bare = model.graph, ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    large = [weight for weight in graph.initializer if math.prod(weight.dims) > _SMALL]
    for field in ("node", "input", "output", "value_info"):
        getattr(bare.graph, field).extend(getattr(graph, field))
    bare.graph.name = graph.name
    bare.graph.initializer.extend(weight for weight in graph.initializer if math.prod(weight.dims) <= _SMALL)
    bare.graph.input.extend(
        helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims) for weight in large
    )
    return bare


def infer(model: ModelProto) -> dict[str, ValueInfoProto]:
    """Every tensor whose shape can be inferred, by name."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value for value in values if value.type.HasField("tensor_type")}


def dims(value: ValueInfoProto) -> Shape:
    """The shape of a tensor, with None for a dynamic dimension."""
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)


def batch_shapes(model: ModelProto) -> dict[str, ValueInfoProto] | None:
    """The intermediate tensors that have a batch dimension which inference does not name, with the dimension named.

    None if the batch has no name or is not the only dynamic dimension. The shapes are inferred for two batch sizes: a
    dimension that equals the batch size in both is the batch, and one that is equal in both does not depend on it.
    """
    graph = model.graph
    dynamic = {dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim if _is_dynamic(dim)}
    batch_name = dynamic.pop() if len(dynamic) == 1 else ""
    if not batch_name:
        return None
    bare = without_large_weights(model)
    inferred = infer(bare)
    first, second = (infer(with_fixed_sizes(bare, {batch_name: batch})) for batch in _BATCHES)
    computed = {name for node in graph.node for name in node.output} - {output.name for output in graph.output}
    annotations = {}
    for name in sorted(computed & first.keys() & second.keys()):
        shape = [_named(*pair, batch_name) for pair in zip(dims(first[name]), dims(second[name]), strict=True)]
        known = inferred[name].type.tensor_type.shape.dim if name in inferred else ()
        is_known = [size == batch_name for size in shape] == [dim.dim_param == batch_name for dim in known]
        if not is_known and batch_name in shape:
            elem_type = first[name].type.tensor_type.elem_type
            annotations[name] = helper.make_tensor_value_info(name, elem_type, shape)
    return annotations


def with_fixed_sizes(bare: ModelProto, sizes: Mapping[str, int]) -> ModelProto:
    """The model with dynamic dimensions set to `sizes`, by name, and no shape annotations except of its inputs."""
    fixed = ModelProto()
    fixed.CopyFrom(bare)
    del fixed.graph.value_info[:]
    for value in fixed.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if _is_dynamic(dim) and dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    return fixed


def _is_dynamic(dim: onnx.TensorShapeProto.Dimension) -> bool:
    return not dim.HasField("dim_value")


def _named(first: int | None, second: int | None, batch_name: str) -> int | str | None:
    """The dimension whose sizes for the two batches are `first` and `second`; None if it varies otherwise."""
    if (first, second) == _BATCHES:
        return batch_name
    return first if first == second else None
