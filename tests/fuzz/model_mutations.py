"""Mutations of ONNX files that a user hands over: hostile names and types, bombs, and graphs of unusual form."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, TypeProto, helper, numpy_helper

from tests.fuzz.mutations import HUGE, MUTATIONS, append_to_output, constant

NAMES = (
    *("", " ", "\x1b[31mred\x1b[0m", "a\nb: deploytool: all is well", "x" * 100_000, "../../etc/passwd", "/etc/passwd"),
    *("a\0b", "\u202egnp.exe", "\u200b", "e\u0301", "名前", "batch", "input", "output_0", "x:0", "a/b/c", "a b", "a,b"),
    *(
        "a=b",
        "--help",
        "0",
        "3",
        "%s%n",
        "{0}",
        "<script>",
        "[bold]x[/bold]",
        "\x7f",
        "con",
        "\r",
        "self",
        "arr_0",
        "file",
    ),
)
_SIZES = (1 << 16, 1 << 20, 1 << 28, 1 << 31, 1 << 33, 1 << 40, 1 << 62)
_CASTS = tuple(range(24))


def _tensors(model: ModelProto) -> list[str]:
    """The names of all tensors of the main graph."""
    graph = model.graph
    made = [name for node in graph.node for name in (*node.input, *node.output) if name]
    return sorted({*made, *(value.name for value in (*graph.input, *graph.output, *graph.initializer))})


def renamed(model: ModelProto, rng: random.Random) -> None:
    """Renames tensors wherever they occur, so that the graph stays valid unless two names become equal."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        old, new = rng.choice(_tensors(model)), rng.choice(NAMES)
        for node in model.graph.node:
            for part in (node.input, node.output):
                part[:] = [new if name == old else name for name in part]
        for value in (*model.graph.input, *model.graph.output, *model.graph.initializer, *model.graph.value_info):
            value.name = new if value.name == old else value.name


def renamed_values(model: ModelProto, rng: random.Random) -> None:
    """Renames the inputs and outputs alone, which messages, files and reports show."""
    value = rng.choice((*model.graph.input, *model.graph.output))
    old, new = value.name, rng.choice(NAMES)
    for node in model.graph.node:
        for part in (node.input, node.output):
            part[:] = [new if name == old else name for name in part]
    value.name = new


def named_nodes(model: ModelProto, rng: random.Random) -> None:
    """Gives the nodes hostile or equal names, which no tool may rely on."""
    name = rng.choice(NAMES)
    for node in model.graph.node:
        node.name = rng.choice((name, rng.choice(NAMES)))


def sizes_named(model: ModelProto, rng: random.Random) -> None:
    """Replaces dimensions of inputs and outputs by names, or removes their shapes."""
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type
        if rng.random() < 0.2:
            kind.ClearField("shape")
        for dim in kind.shape.dim:
            if rng.random() < 0.4:
                dim.dim_param = rng.choice((*NAMES, "N", "N*2", "floor(H/2)", "-1", "None"))
            elif rng.random() < 0.1:
                dim.Clear()


def value_types(model: ModelProto, rng: random.Random) -> None:
    """Makes an input or output something other than a tensor, or of another type."""
    value = rng.choice((*model.graph.input, *model.graph.output))
    inner = TypeProto.FromString(value.type.SerializeToString())
    kind = rng.randrange(6)
    if kind == 0:
        value.type.CopyFrom(helper.make_sequence_type_proto(inner))
    elif kind == 1:
        value.type.CopyFrom(helper.make_optional_type_proto(inner))
    elif kind == 2:
        value.type.CopyFrom(helper.make_map_type_proto(TensorProto.STRING, inner))
    elif kind == 3:
        value.type.CopyFrom(helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [2, 3]))
    elif kind == 4:
        value.ClearField("type")
    else:
        value.type.tensor_type.elem_type = rng.randrange(26)


def inferred(model: ModelProto, rng: random.Random) -> None:
    """States wrong types and shapes of tensors inside of the graph."""
    for name in rng.sample(_tensors(model), 2):
        shape = [rng.choice(HUGE) for _ in range(rng.choice((0, 1, 3, 300)))]
        model.graph.value_info.append(helper.make_tensor_value_info(name, rng.randrange(24), shape))


def output_of(model: ModelProto, rng: random.Random) -> None:
    """Makes an output of an input, a weight, a tensor inside of the graph, or an output once more."""
    for _ in range(rng.choice((1, 1, 3))):
        kind = rng.choice((TensorProto.FLOAT, TensorProto.INT64))
        model.graph.output.append(helper.make_tensor_value_info(rng.choice(_tensors(model)), kind, None))


def poisoned(model: ModelProto, rng: random.Random) -> None:
    """Makes weights NaN, infinite, huge, tiny or zero."""
    value = rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-42, 0.0, 1e20))
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight).copy()
        if array.dtype.kind == "f" and array.size and rng.random() < 0.6:
            with np.errstate(over="ignore"):
                array.flat[:: rng.choice((1, 7, array.size))] = value
            weight.CopyFrom(numpy_helper.from_array(array, weight.name))


def casts(model: ModelProto, rng: random.Random) -> None:
    """Sends the output through another type and back."""
    last = model.graph.output[0].type.tensor_type.elem_type
    kinds = [rng.choice(_CASTS) for _ in range(rng.choice((1, 2, 3)))]
    tensors = ["before", *(f"c{step}" for step in range(len(kinds)))]
    inserted = [
        helper.make_node("Cast", [tensors[step]], [tensors[step + 1]], to=kind) for step, kind in enumerate(kinds)
    ]
    append_to_output(model, helper.make_node("Cast", [inserted[-1].output[0]], ["x"], to=last))
    _insert_before_last(model, *inserted)


def weight_types(model: ModelProto, rng: random.Random) -> None:
    """Stores a weight in another type, and casts it back."""
    weight = rng.choice(model.graph.initializer)
    array = numpy_helper.to_array(weight)
    kind = rng.choice((TensorProto.DOUBLE, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, 20, 8, 14))
    stored = helper.make_tensor("stored", kind, array.shape, array.astype(np.float32).ravel().tolist())
    name, element = weight.name, weight.data_type
    weight.CopyFrom(stored)
    model.graph.node.insert(0, helper.make_node("Cast", ["stored"], [name], to=element))


def strings(model: ModelProto, rng: random.Random) -> None:
    """Adds strings: as a weight, a constant, an input or an output."""
    text = rng.choice(NAMES).encode("utf-8", "surrogatepass") + rng.choice((b"", b"\xff"))
    weight = TensorProto(name="text", data_type=TensorProto.STRING, dims=[1], string_data=[text])
    kind = rng.randrange(4)
    if kind == 0:
        model.graph.initializer.append(weight)
        model.graph.output.append(helper.make_tensor_value_info("text", TensorProto.STRING, [1]))
    elif kind == 1:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["text"], value=weight))
        model.graph.node.insert(1, helper.make_node("StringNormalizer", ["text"], ["t2"]))
    elif kind == 2:
        model.graph.input.append(helper.make_tensor_value_info("text", TensorProto.STRING, ["N"]))
    else:
        node = rng.choice(model.graph.node)
        node.attribute.append(helper.make_attribute(rng.choice(NAMES[2:]), text))


def documented(model: ModelProto, rng: random.Random) -> None:
    """Fills every text that computes nothing."""
    text = rng.choice(NAMES)
    model.producer_name = model.producer_version = model.domain = model.graph.name = model.doc_string = text
    for _ in range(rng.choice((1, 2, 1000))):
        model.metadata_props.add(key=rng.choice(NAMES), value=text)
    for node in model.graph.node:
        node.doc_string = text
        node.metadata_props.add(key="namespace", value=text)


def imports(model: ModelProto, rng: random.Random) -> None:
    """States other versions and domains of operators."""
    kind = rng.randrange(4)
    if kind == 0:
        model.opset_import[0].version = rng.randrange(1, 30)
    elif kind == 1:
        model.ir_version = rng.randrange(0, 15)
    elif kind == 2:
        model.opset_import.add(domain=rng.choice(("", "ai.onnx", "com.microsoft", *NAMES)), version=rng.choice(HUGE))
    else:
        model.opset_import[0].domain = rng.choice(("ai.onnx", "ai.onnx.ml", "com.microsoft", *NAMES))


def _insert_before_last(model: ModelProto, *nodes: Any) -> None:
    for node in nodes:
        model.graph.node.insert(len(model.graph.node) - 1, node)


def doubling(model: ModelProto, rng: random.Random) -> None:
    """Doubles a tensor again and again."""
    times = rng.choice((2, 10, 24, 30, 40, 62))
    nodes = [helper.make_node("Concat", [f"d{step}"] * 2, [f"d{step + 1}"], axis=0) for step in range(times)]
    append_to_output(model, helper.make_node("Identity", ["before"], ["x"]))
    _insert_before_last(model, helper.make_node("Identity", ["before"], ["d0"]), *nodes)
    if rng.random() < 0.8:
        model.graph.output.append(helper.make_empty_tensor_value_info(f"d{times}"))


def slow(model: ModelProto, rng: random.Random) -> None:
    """Computes much from little: large products, loops in loops, a long Resize or Pad."""
    size, kind = rng.choice((64, 1024, 4096, 16384, 1 << 20)), rng.randrange(4)
    append_to_output(model, helper.make_node("Identity", ["before"], ["x"]))
    if kind == 0:
        shape = constant(model, "square", np.array([size, size], np.int64))
        nodes = [helper.make_node("ConstantOfShape", [shape], ["s0"])]
        nodes += [helper.make_node("MatMul", [f"s{step}"] * 2, [f"s{step + 1}"]) for step in range(8)]
        end = "s8"
    elif kind == 1:
        scales = constant(model, "scales", np.array([1.0] * 3 + [float(size)], np.float32))
        reshape = constant(model, "four", np.array([1, 1, 1, -1], np.int64))
        nodes = [helper.make_node("Cast", ["before"], ["cast"], to=TensorProto.FLOAT)]
        nodes += [helper.make_node("Reshape", ["cast", reshape], ["s0"])]
        nodes += [
            helper.make_node("Resize", ["s0", "", scales], ["s1"], mode=rng.choice(("nearest", "linear", "cubic")))
        ]
        end = "s1"
    elif kind == 2:
        nodes, end = [_counting(model, size, levels=rng.choice((1, 2, 3)))], "s1"
    else:
        ends = constant(model, "ends", np.array([0, size * 1024], np.int64))
        flat = constant(model, "flat", np.array([-1], np.int64))
        nodes = [helper.make_node("Reshape", ["before", flat], ["s0"]), helper.make_node("Pad", ["s0", ends], ["s1"])]
        end = "s1"
    _insert_before_last(model, *nodes)
    if rng.random() < 0.7:
        model.graph.output.append(helper.make_empty_tensor_value_info(end))


def _counting(model: ModelProto, turns: int, levels: int) -> Any:
    """A loop of that many turns, nested."""
    constant(model, "turns_", np.array(turns, np.int64))
    constant(model, "go_", np.array(True))
    constant(model, "start_", np.array(0.0, np.float32))
    inner: list[Any] = []
    for level in range(levels):
        body = helper.make_graph(
            [*inner, helper.make_node("Identity", [f"in{level}"], [f"out{level}"])],
            f"level{level}",
            [
                helper.make_tensor_value_info(f"turn{level}", TensorProto.INT64, []),
                helper.make_tensor_value_info(f"go{level}", TensorProto.BOOL, []),
                helper.make_tensor_value_info(f"in{level}", TensorProto.FLOAT, []),
            ],
            [
                helper.make_tensor_value_info(f"go{level}", TensorProto.BOOL, []),
                helper.make_tensor_value_info(f"out{level}", TensorProto.FLOAT, []),
            ],
        )
        result = "s1" if level == levels - 1 else f"result{level}"
        inner = [helper.make_node("Loop", ["turns_", "go_", "start_"], [result], body=body)]
    return inner[0]


def long(model: ModelProto, rng: random.Random) -> None:
    """Adds a long chain, or a node with very many inputs or outputs."""
    count, kind = rng.choice((100, 1000, 5000)), rng.randrange(3)
    if kind == 0:
        nodes = [helper.make_node("Identity", [f"l{step}"], [f"l{step + 1}"]) for step in range(count)]
        append_to_output(model, helper.make_node("Identity", [f"l{count}"], ["x"]))
        _insert_before_last(model, helper.make_node("Identity", ["before"], ["l0"]), *nodes)
    elif kind == 1:
        append_to_output(model, helper.make_node("Max", ["before"] * count, ["x"]))
    else:
        constant(model, "wide", np.zeros(count, np.float32))
        model.graph.node.insert(0, helper.make_node("Split", ["wide"], [f"p{index}" for index in range(count)], axis=0))


def empty(model: ModelProto, rng: random.Random) -> None:
    """Empties a part of the graph, or a dimension."""
    part = rng.choice(("node", "initializer", "input", "output"))
    kind = rng.randrange(3)
    if kind == 0:
        model.graph.ClearField(part)
    elif kind == 1:
        for value in (*model.graph.input, *model.graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if rng.random() < 0.3:
                    dim.dim_value = 0
    else:
        constant(model, "none", np.zeros((0, 3), np.float32))
        model.graph.output.append(helper.make_tensor_value_info("none", TensorProto.FLOAT, [0, 3]))


def ranks(model: ModelProto, rng: random.Random) -> None:
    """Adds a tensor with very many dimensions, or a dimension to an input."""
    if rng.random() < 0.5:
        rank = rng.choice((9, 30, 65, 300))
        shape = constant(model, "rank", np.ones(rank, np.int64))
        one = constant(model, "single", np.zeros(1, np.float32))
        model.graph.node.insert(0, helper.make_node("Reshape", [one, shape], ["deep"]))
        model.graph.output.append(helper.make_empty_tensor_value_info("deep"))
    else:
        rng.choice(model.graph.input).type.tensor_type.shape.dim.add(dim_value=rng.choice(HUGE))


def overridden(model: ModelProto, rng: random.Random) -> None:
    """Defines a function with the name of a standard operator, or many that call each other."""
    if rng.random() < 0.5:
        name = rng.choice(model.graph.node).op_type
        body = [helper.make_node("Identity", ["a"], ["b"])]
        domain = rng.choice(("", "ai.onnx"))
        model.functions.append(helper.make_function(domain, name, ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
        return
    levels, fan = rng.choice((5, 20, 40)), 2
    for level in range(levels):
        body = [helper.make_node(f"L{level + 1}", [f"t{turn}"], [f"t{turn + 1}"], domain="own") for turn in range(fan)]
        if level == levels - 1:
            body = [helper.make_node("Identity", ["t0"], [f"t{fan}"])]
        imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        model.functions.append(helper.make_function("own", f"L{level}", ["t0"], [f"t{fan}"], body, imports))
    model.opset_import.append(helper.make_opsetid("own", 1))
    append_to_output(model, helper.make_node("L0", ["before"], ["x"], domain="own"))


def attributes(model: ModelProto, rng: random.Random) -> None:
    """Gives a node an attribute of an unusual kind, twice, or none at all."""
    node, kind = rng.choice(model.graph.node), rng.randrange(5)
    if kind == 0:
        node.attribute.append(AttributeProto(name="axis", ref_attr_name=rng.choice(NAMES), type=AttributeProto.INT))
    elif kind == 1 and len(node.attribute):
        node.attribute.append(rng.choice(node.attribute))
    elif kind == 2:
        del node.attribute[:]
    elif kind == 3:
        sparse = helper.make_sparse_tensor(
            helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]),
            helper.make_tensor("i", TensorProto.INT64, [1], [rng.choice(HUGE)]),
            [rng.choice(_SIZES)],
        )
        model.graph.node.insert(0, helper.make_node("Constant", [], ["sparse"], sparse_value=sparse))
        model.graph.output.append(helper.make_empty_tensor_value_info("sparse"))
    else:
        node.attribute.append(helper.make_attribute(rng.choice(NAMES[1:]), rng.choice(HUGE)))


def training(model: ModelProto, rng: random.Random) -> None:
    """Adds parts that only training reads, and annotations."""
    model.training_info.add().algorithm.CopyFrom(model.graph)
    annotation = model.graph.quantization_annotation.add(tensor_name=rng.choice(NAMES))
    annotation.quant_parameter_tensor_names.add(key=rng.choice(NAMES), value=rng.choice(NAMES))


def sparse_weights(model: ModelProto, rng: random.Random) -> None:
    values = helper.make_tensor(rng.choice(("thin", *NAMES)), TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [rng.choice(HUGE)])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [rng.choice(_SIZES)]))


Mutation = Callable[[ModelProto, random.Random], None]
ALL: tuple[Mutation, ...] = (
    *MUTATIONS,
    *(renamed, renamed, renamed_values, named_nodes, sizes_named, value_types, inferred, output_of, poisoned, poisoned),
    *(casts, weight_types, strings, documented, imports, imports, doubling, slow, long, empty, ranks, overridden),
    *(attributes, training, sparse_weights),
)
