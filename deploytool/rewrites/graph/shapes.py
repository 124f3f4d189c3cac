"""What shapes the tensors of a graph have: as inference says, and as the batch makes them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from onnx import ModelProto, ValueInfoProto, helper

Shape = tuple[int | None, ...]

_FEW = 64  # values: what says a shape has no more
_BATCHES = (5, 7)


def without_values(model: ModelProto) -> ModelProto:
    """The model with its larger weights as inputs, which is all that shapes depend on, and quick to hand over."""
    graph, bare = model.graph, ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    large = [weight for weight in graph.initializer if math.prod(weight.dims) > _FEW]
    for field in ("node", "input", "output", "value_info"):
        getattr(bare.graph, field).extend(getattr(graph, field))
    bare.graph.name = graph.name
    bare.graph.initializer.extend(weight for weight in graph.initializer if math.prod(weight.dims) <= _FEW)
    bare.graph.input.extend(helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in large)
    return bare


def infer(model: ModelProto) -> dict[str, ValueInfoProto]:
    """Every tensor whose shape follows from the graph, by name."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {each.name: each for each in values if each.type.HasField("tensor_type")}


def sides(value: ValueInfoProto) -> Shape:
    """The shape of a tensor, None for a side that is no number."""
    return tuple(side.dim_value if side.HasField("dim_value") else None for side in value.type.tensor_type.shape.dim)


def with_batch(model: ModelProto) -> dict[str, ValueInfoProto] | None:
    """The tensors on the way with a side that is the batch, and that inference does not call so.

    None if other sizes are free too, none is, or it has no name. The shapes are inferred for two batches: what is one
    in the first and the other in the second is the batch, and what is the same in both does not depend on it.
    """
    graph = model.graph
    free = {side.dim_param for value in graph.input for side in value.type.tensor_type.shape.dim if _free(side)}
    word = free.pop() if len(free) == 1 else ""
    if not word:
        return None
    bare = without_values(model)
    called = infer(bare)
    first, second = (infer(fixed(bare, {word: batch})) for batch in _BATCHES)
    made = {name for node in graph.node for name in node.output} - {output.name for output in graph.output}
    found = {}
    for name in sorted(made & first.keys() & second.keys()):
        shape = [_named(*pair, word) for pair in zip(sides(first[name]), sides(second[name]), strict=True)]
        known = called[name].type.tensor_type.shape.dim if name in called else ()
        if [side == word for side in shape] != [side.dim_param == word for side in known] and word in shape:
            found[name] = helper.make_tensor_value_info(name, first[name].type.tensor_type.elem_type, shape)
    return found


def fixed(bare: ModelProto, sizes: Mapping[str, int]) -> ModelProto:
    """The model for these sizes of the free sides, by name, with nothing said of its shapes but those of its inputs."""
    made = ModelProto()
    made.CopyFrom(bare)
    del made.graph.value_info[:]
    for value in made.graph.input:
        for side in value.type.tensor_type.shape.dim:
            if _free(side) and side.dim_param in sizes:
                side.dim_value = sizes[side.dim_param]
    for value in made.graph.output:
        value.type.tensor_type.ClearField("shape")
    return made


def _free(side: onnx.TensorShapeProto.Dimension) -> bool:
    return not side.HasField("dim_value")


def _named(first: int | None, second: int | None, word: str) -> int | str | None:
    """A side that was found for each of the two batches."""
    if (first, second) == _BATCHES:
        return word
    return first if first == second else None
