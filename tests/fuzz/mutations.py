"""Mutates ONNX graphs: their nodes, attributes, weights, types, names and versions, or their bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from tests.fuzz import values

HUGE = (0, -1, 1, 2, 7, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63), -2)
_OPS = (
    *("Relu", "Add", "Conv", "MatMul", "Gemm", "Reshape", "Transpose", "Concat", "Slice", "Gather", "Softmax", "Loop"),
    *("If", "Scan", "Nope", "PythonOp", "Identity", "Shape", "Cast", "Pad", "Tile", "Expand", "NonZero", "Unique"),
    *(
        "Resize",
        "TopK",
        "LSTM",
        "Einsum",
        "CumSum",
        "RandomNormal",
        "Multinomial",
        "StringNormalizer",
        "TfIdfVectorizer",
    ),
    *(
        "QuantizeLinear",
        "GridSample",
        "RoiAlign",
        "NonMaxSuppression",
        "Optional",
        "SequenceAt",
        "STFT",
        "DFT",
        "Col2Im",
    ),
)
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "ai.onnx.preview.training", "com.nobody", "ai.onnx.contrib")
_FILES = ("/etc/passwd", "../../victim/file", "golden/golden.npz", "w.bin", "", "/dev/zero", "manifest.json", "..")
Mutate = Callable[[ModelProto, random.Random], None]


def _node(model: ModelProto, rng: random.Random) -> Any:
    return rng.choice(model.graph.node)


def removed(model: ModelProto, rng: random.Random) -> None:
    part = rng.choice((model.graph.node, model.graph.initializer, model.graph.input, model.graph.output))
    if len(part):
        del part[rng.randrange(len(part))]


def doubled(model: ModelProto, rng: random.Random) -> None:
    part = rng.choice((model.graph.node, model.graph.initializer, model.graph.input, model.graph.output))
    if len(part):
        part.append(rng.choice(part))


def swapped(model: ModelProto, rng: random.Random) -> None:
    """Swaps inputs of two nodes."""
    first, second = _node(model, rng), _node(model, rng)
    if first.input and second.input:
        left, right = rng.randrange(len(first.input)), rng.randrange(len(second.input))
        first.input[left], second.input[right] = second.input[right], first.input[left]


def cycle(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    later = rng.choice((node, *model.graph.node))
    if node.input and later.output:
        node.input[rng.randrange(len(node.input))] = later.output[0]


def operator(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    node.op_type = rng.choice(_OPS)
    if rng.random() < 0.3:
        node.domain = rng.choice(_DOMAINS)


def attribute(model: ModelProto, rng: random.Random) -> None:
    """Sets an attribute to an edge-case value, another type or another name."""
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if not attributes:
        return
    selected = rng.choice(attributes)
    if selected.type == AttributeProto.INTS and len(selected.ints) and rng.random() < 0.7:
        selected.ints[rng.randrange(len(selected.ints))] = rng.choice(HUGE)
    elif selected.type == AttributeProto.INT and rng.random() < 0.7:
        selected.i = rng.choice(HUGE)
    elif selected.type == AttributeProto.FLOAT:
        selected.f = rng.choice((float("nan"), float("inf"), -1e38, 0.0))
    elif rng.random() < 0.5:
        selected.type = rng.randrange(15)
    else:
        selected.name = rng.choice(("group", "pads", "kernel_shape", "axis", "auto_pad", "x", "to", "body"))


def dims(model: ModelProto, rng: random.Random) -> None:
    """Changes the stated dimensions of a weight."""
    weight = rng.choice(model.graph.initializer)
    if rng.random() < 0.3 or not weight.dims:
        weight.dims.append(rng.choice(HUGE))
    else:
        weight.dims[rng.randrange(len(weight.dims))] = rng.choice(HUGE)


def weights(model: ModelProto, rng: random.Random) -> None:
    weight = rng.choice(model.graph.initializer)
    kind = rng.randrange(4)
    if kind == 0:
        weight.data_type = rng.randrange(24)
    elif kind == 1:
        weight.raw_data = weight.raw_data[: rng.randrange(len(weight.raw_data) + 1)]
    elif kind == 2:
        array = numpy_helper.to_array(weight).copy()
        array.flat[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, 1e30, 1)) if array.dtype.kind == "f" else 7
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    else:
        weight.ClearField("raw_data")
        weight.float_data.extend([1.0] * rng.choice((0, 3, 5000)))


def outside(model: ModelProto, rng: random.Random) -> None:
    """Moves a weight to external data with an invalid location."""
    weight = rng.choice(model.graph.initializer)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entries = {"location": rng.choice(_FILES), "offset": str(rng.choice(HUGE)), "length": str(rng.choice(HUGE))}
    for key in rng.sample(sorted(entries), rng.choice((1, 2, 3))):
        entry = weight.external_data.add()
        entry.key, entry.value = key, entries[key]


def shapes(model: ModelProto, rng: random.Random) -> None:
    """Changes the type or a dimension of an input or output."""
    kind = rng.choice((model.graph.input, model.graph.output))[0].type.tensor_type
    if rng.random() < 0.3:
        kind.elem_type = rng.randrange(24)
    elif len(kind.shape.dim):
        dim = rng.choice(kind.shape.dim)
        dim.dim_value = rng.choice(HUGE)


def append_to_output(model: ModelProto, node: Any) -> None:
    """Adds a node that produces the output from the previous output, `before`."""
    last = model.graph.output[0].name
    for producer in model.graph.node:
        for index, name in enumerate(producer.output):
            if name == last:
                producer.output[index] = "before"
    node.output[0] = last
    model.graph.node.append(node)


def constant(model: ModelProto, name: str, numbers: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(numbers), name))
    return name


def large(model: ModelProto, rng: random.Random) -> None:
    """Adds a node that allocates much memory."""
    size = rng.choice((1 << 20, 1 << 26, 1 << 28, 1 << 30, 1 << 33, 1 << 40, (1 << 62)))
    kind = rng.choice(("ConstantOfShape", "Expand", "Range", "Tile", "RandomNormal", "OneHot"))
    if kind == "ConstantOfShape":
        allocating = helper.make_node(kind, [constant(model, "much", np.array([size], np.int64))], ["m"])
    elif kind == "Expand":
        allocating = helper.make_node(
            kind, ["before", constant(model, "much", np.array([size, 1, 1], np.int64))], ["m"]
        )
    elif kind == "Range":
        ends = [constant(model, f"end{index}", np.array(number, np.int64)) for index, number in enumerate((0, size, 1))]
        allocating = helper.make_node(kind, ends, ["m"])
    elif kind == "Tile":
        allocating = helper.make_node(kind, ["before", constant(model, "much", np.array([size, 1], np.int64))], ["m"])
    elif kind == "RandomNormal":
        allocating = helper.make_node(kind, [], ["m"], shape=[size])
    else:
        depth = constant(model, "depth", np.array(size, np.int64))
        places = constant(model, "places", np.array([1], np.int64))
        both = constant(model, "both", np.array([0.0, 1.0], np.float32))
        allocating = helper.make_node(kind, [places, depth, both], ["m"])
    append_to_output(model, helper.make_node("Identity", ["before"], ["x"]))
    end = len(model.graph.node) - 1
    model.graph.node.insert(end, allocating)
    if rng.random() < 0.7:
        model.graph.output.append(helper.make_empty_tensor_value_info("m"))


def loop(model: ModelProto, rng: random.Random) -> None:
    """Adds a loop with up to endless iterations, which may collect all its outputs."""
    collects = rng.random() < 0.4
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Identity", ["has"], ["gets"]),
            *([helper.make_node("Identity", ["has"], ["keeps"])] if collects else []),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_empty_tensor_value_info("has"),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_empty_tensor_value_info("gets"),
            *([helper.make_empty_tensor_value_info("keeps")] if collects else []),
        ],
    )
    turns = constant(model, "turns", np.array(rng.choice((0, 1, 5, 7, 9, 1 << 18, 1 << 40, (1 << 63) - 1)), np.int64))
    go = constant(model, "goes", np.array(rng.random() < 0.9))
    append_to_output(
        model, helper.make_node("Loop", [turns, go, "before"], ["x", *(["all"] if collects else [])], body=body)
    )


def nested(model: ModelProto, rng: random.Random) -> None:
    """Adds deeply nested subgraphs."""
    inner = helper.make_graph([], "end", [], [helper.make_empty_tensor_value_info("before")])
    for level in range(rng.choice((2, 20, 90, 110))):
        yes = helper.make_node(
            "If", ["yes"], [f"in{level}"], then_branch=inner, else_branch=inner if level < 3 else None
        )
        inner = helper.make_graph([yes], f"g{level}", [], [helper.make_empty_tensor_value_info(f"in{level}")])
    constant(model, "yes", np.array(True))
    append_to_output(model, helper.make_node("If", ["yes"], ["x"], then_branch=inner, else_branch=inner))


def function(model: ModelProto, rng: random.Random) -> None:
    """Adds model functions that call themselves or each other."""
    names = rng.choice((["F"], ["F", "G"]))
    for index, name in enumerate(names):
        call = helper.make_node(names[(index + 1) % len(names)], ["a"], ["b"], domain="own")
        recursive = helper.make_function("own", name, ["a"], ["b"], [call], [helper.make_opsetid("own", 1)])
        model.functions.append(recursive)
    model.opset_import.append(helper.make_opsetid("own", 1))
    append_to_output(model, helper.make_node("F", ["before"], ["x"], domain="own"))


def versions(model: ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.5:
        model.ir_version = rng.choice(HUGE)
    elif rng.random() < 0.5:
        model.opset_import[0].version = rng.choice((0, 1, 7, 99, 1 << 40, -1))
    else:
        del model.opset_import[:]


def names(model: ModelProto, rng: random.Random) -> None:
    """Sets a name to terminal control characters, a very long text or an empty one."""
    unusual = rng.choice(("", "\x1b[31mred", "a\nb", "x" * 100_000, "../x", "\0", "\u202e"))
    part = rng.choice((model.graph.node, model.graph.initializer, model.graph.input, model.graph.output))
    if len(part):
        rng.choice(part).name = unusual


def equal(model: ModelProto, rng: random.Random) -> None:
    """Changes the graph without changing its outputs."""
    model.doc_string = "x" * rng.choice((1, 1000))
    for node in model.graph.node:
        node.name = f"n{rng.random()}"
    append_to_output(model, helper.make_node("Identity", ["before"], ["x"]))


MUTATIONS: tuple[Mutate, ...] = (
    *(removed, doubled, swapped, cycle, operator, operator, attribute, attribute, dims, weights, weights, outside),
    *(shapes, large, loop, nested, function, versions, names, equal),
)


def corrupted(raw: bytes, rng: random.Random) -> bytes:
    """The bytes of a graph with some of them changed, removed or added."""
    changed = bytearray(raw)
    kind = rng.randrange(4)
    if kind == 0:
        return values.corrupt(raw, rng)
    if kind == 1:  # in the structure, before the weights
        for _ in range(rng.choice((1, 2, 5))):
            changed[rng.randrange(min(len(changed), 1200))] = rng.randrange(256)
    elif kind == 2:
        changed = changed[: rng.randrange(len(changed))]
    else:
        for _ in range(rng.choice((1, 3, 10, 100))):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def mutated(raw: bytes, rng: random.Random, mutations: Sequence[Mutate]) -> tuple[str, bytes]:
    """The name of a random mutation, and the graph after it; sometimes after a second one."""
    if rng.random() < 0.35:
        return "bytes", corrupted(raw, rng)
    model = ModelProto.FromString(raw)
    chosen = rng.choice(mutations)
    with suppress(Exception):  # protobuf may reject the value
        chosen(model, rng)
        if rng.random() < 0.15:
            rng.choice(mutations)(model, rng)
    return chosen.__name__, model.SerializeToString()
