from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import TensorProto, helper

from deploytool.errors import BadInput
from deploytool.loading.graph import structure
from tests import given_graphs

Damage = Callable[[onnx.ModelProto], object]


def no_nodes(graph: onnx.ModelProto) -> None:
    del graph.graph.node[:]


def cycle(graph: onnx.ModelProto) -> None:
    graph.graph.node[0].input[0] = "b"


def missing_weight(graph: onnx.ModelProto) -> None:
    del graph.graph.initializer[0]


def made_twice(graph: onnx.ModelProto) -> None:
    graph.graph.node[1].output[0] = "a"


def two_weights(graph: onnx.ModelProto) -> None:
    graph.graph.initializer.append(graph.graph.initializer[0])


def foreign_domain(graph: onnx.ModelProto) -> None:
    graph.graph.node[1].domain = "com.example"
    graph.graph.node[1].name = "act"
    graph.opset_import.append(helper.make_opsetid("com.example", 1))


def unknown_operator(graph: onnx.ModelProto) -> None:
    graph.graph.node[1].op_type = "Relux"


def random_node(graph: onnx.ModelProto) -> None:
    graph.graph.node[1].CopyFrom(helper.make_node("RandomNormalLike", ["a"], ["b"], "noise"))


def unnamed_output(graph: onnx.ModelProto) -> None:
    graph.graph.output[0].name = "nowhere"


def constant(graph: onnx.ModelProto) -> None:
    del graph.graph.input[:]
    graph.graph.initializer.append(helper.make_tensor("x", TensorProto.FLOAT, [1, 8], [0.0] * 8))


def nested(graph: onnx.ModelProto) -> None:
    inner = graph.graph
    for _ in range(20):
        node = helper.make_node("If", ["c"], ["r"], then_branch=onnx.GraphProto(), else_branch=onnx.GraphProto())
        inner.node.insert(0, node)
        inner = next(item.g for item in inner.node[0].attribute if item.name == "then_branch")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (no_nodes, "contains no nodes"),
        (cycle, "reads 'b', which is made only later: a cycle, or nodes out of order"),
        (missing_weight, "reads 'first', which is made nowhere"),
        (made_twice, "'a' is made twice, again by the Relu node 'a'"),
        (two_weights, "has two initializers named 'first'"),
        (foreign_domain, "the Relu node 'act' is an operator of the domain com.example, which is not supported"),
        (unknown_operator, "the Relux node 'b' has no definition in opset 18"),
        (random_node, "the RandomNormalLike node 'noise' draws random numbers"),
        (unnamed_output, "the output 'nowhere' is made nowhere"),
        (constant, "has no inputs"),
        (nested, "nests graphs more than 16 deep"),
        (lambda graph: setattr(graph, "ir_version", 99), "has IR version 99"),
        (lambda graph: setattr(graph.graph.node[0], "name", "n" * 1001), "a name of 1,001 characters: nnnn"),
        (lambda graph: setattr(graph.graph.input[0], "name", "i" * 70000), "a name of 70,000 characters: iiii"),
        (lambda graph: setattr(graph.graph.node[0], "domain", "d" * 2000), "a name of 2,000 characters: dddd"),
        (lambda graph: graph.ClearField("opset_import"), "states no opset"),
        (lambda graph: setattr(graph.opset_import[0], "version", 6), "has opset 6, and 7 to"),
        (lambda graph: graph.graph.ClearField("output"), "has no outputs"),
    ],
)
def test_an_invalid_graph_is_refused_in_one_line_that_names_the_part(damage: Damage, problem: str) -> None:
    graph = given_graphs.mlp()
    structure.check(graph, "net.onnx")
    damage(graph)
    with pytest.raises(BadInput) as raised:
        structure.check(graph, "net.onnx")
    assert problem in str(raised.value)
    assert str(raised.value).startswith("net.onnx")


def test_the_nearest_node_that_selects_is_the_source_of_a_size() -> None:
    graph = given_graphs.selection().graph
    source = structure.size_source(graph, "kept")
    assert source is not None
    assert source.op_type == "NonMaxSuppression"
    assert structure.size_source(graph, "moved") is None
    rows = helper.make_node("Gather", ["boxes", "found"], ["rows"])
    graph.node.extend([helper.make_node("NonZero", ["kept"], ["found"]), rows])
    nearest = structure.size_source(graph, "rows")
    assert nearest is not None
    assert structure.label(nearest) == "NonZero node 'found'"
