from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from deploytool.known_issues import read_strided_concat
from deploytool.known_issues.place import Place
from deploytool.loading import catalog, factory
from deploytool.pipeline import runner
from deploytool.spec import Job, Options, Stage, Tensor
from tests.known_issues.graphs import Nodes, graph, node, replaced, save, thread

PLACE = Place("sum", ("wide", "sum", "all"))
TANH = (  # x · ½ · (1 + tanh ½x), the form of SiLU that made the fault show
    node("Mul", "wide half", "halved"),
    node("Tanh", "halved", "bent"),
    node("Add", "bent one", "raised"),
    node("Mul", "halved raised", "active"),
)
SILU = (node("Sigmoid", "wide", "gate"), node("Mul", "wide gate", "active"))
LATER = (node("Concat", "left right sum", "early", axis=1), node("Relu", "early", "all"))

MATCHES: dict[str, Nodes] = {
    "the thread's": thread(),
    "the operand second": replaced("sum", node("Add", "active right", "sum")),
    "SiLU": replaced("active", *SILU),
    "SiLU by tanh": replaced("active", *TANH),
    "batch norm left in": replaced(
        "active", node("BatchNormalization", "wide ones ones ones ones", "normal"), node("Relu", "normal", "active")
    ),
    "the sum not concatenated": replaced(
        "all", node("Concat", "left right", "part", axis=1), node("Add", "part one", "all")
    ),
    "along another axis": replaced("all", node("Concat", "right right", "all", axis=3)),
}
NEAR_MISSES: dict[str, Nodes] = {
    "no activation": replaced("active", node("Identity", "wide", "active")),
    "no concat of the operand": replaced("all", node("Concat", "left sum", "all", axis=1)),
    "along the batch": replaced("all", node("Concat", "left right sum", "all", axis=0)),
    "a product": replaced("sum", node("Mul", "right active", "sum")),
    "no residual": replaced("sum", node("Add", "active one", "sum")),
    "a gate of a second convolution": replaced(
        "active",
        node("Conv", "right gate_weight", "other"),
        node("Sigmoid", "other", "gate"),
        node("Mul", "wide gate", "active"),
    ),
    "a pool between": replaced("active", node("Relu", "wide", "bent"), node("GlobalAveragePool", "bent", "active")),
    "the activation after the sum": [
        *replaced("active", node("Identity", "wide", "active"))[:-2],
        node("Relu", "sum", "after"),
        node("Concat", "left right after", "all", axis=1),
        thread()[-1],
    ],
}


@pytest.mark.parametrize("nodes", MATCHES.values(), ids=list(MATCHES))
def test_the_shape_is_matched(nodes: Nodes, tmp_path: Path) -> None:
    save(nodes, tmp_path / "model.onnx")  # which checks that it is a graph
    (found,) = read_strided_concat.find(graph(nodes))
    assert found.tensor == PLACE.tensor
    assert found.nodes[:2] == PLACE.nodes[:2]


@pytest.mark.parametrize("nodes", NEAR_MISSES.values(), ids=list(NEAR_MISSES))
def test_a_near_miss_is_not(nodes: Nodes, tmp_path: Path) -> None:
    save(nodes, tmp_path / "model.onnx")
    assert read_strided_concat.find(graph(nodes)) == ()


def test_a_concat_that_the_sum_is_made_of_is_no_later_one() -> None:
    nodes = [
        node("Conv", "image stem_weight", "stem"),
        node("Split", "stem", "left right", axis=1, num_outputs=2),
        node("Concat", "right right", "both", axis=1),
        node("Conv", "both weight", "wide"),
        node("Relu", "wide", "active"),
        node("Add", "right active", "sum"),
    ]
    assert read_strided_concat.find(graph(nodes)) == ()
    (found,) = read_strided_concat.find(graph([*nodes, node("Concat", "right sum", "all", axis=1)]))
    assert found == PLACE


def test_every_place_is_found_once(tmp_path: Path) -> None:
    model = catalog.find(
        f"{Path(__file__).parents[1] / 'user_models' / 'c2f.py'}:make",
        [Tensor("input", ("batch", 3, 32, 32))],
        {"bottlenecks": 3},
    )
    recipe = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.FP16)
    list(runner.run(Job(model, Options(images=1)), recipe, tmp_path))
    for stage in ("export", "simplify", "fp16"):
        found = read_strided_concat.find(onnx.load(tmp_path / stage / "model.onnx").graph)
        assert [place.tensor for place in found] == [f"/1/Add_{number}_output_0" for number in (1, 2, 3)]


factory.mount_zoo()


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_g3_x0_25", "mixnet_s"])
def test_our_own_models_do_not_have_the_shape(name: str, tmp_path: Path) -> None:
    """ShuffleNet and MixNet add before they activate, and concatenate what no later sum reads."""
    model = catalog.find(name, [Tensor("input", ("batch", 3, 64, 64))])
    list(runner.run(Job(model, Options(images=1)), (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY), tmp_path))
    graph = onnx.load(tmp_path / "simplify" / "model.onnx").graph
    assert {"Conv", "Relu"} & {node.op_type for node in graph.node}
    assert read_strided_concat.find(graph) == ()
