from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from deploytool.known_issues import catalog as known_issues
from deploytool.known_issues import read_strided_concat
from deploytool.known_issues.place import Place
from deploytool.loading import catalog, factory
from deploytool.pipeline import runner
from deploytool.spec import Job, Options, Stage, Tensor
from tests.known_issues.graphs import Nodes, graph, node, reported_pattern, save, with_replacement

PLACE = Place("sum", ("wide", "sum", "all"))
TANH = (  # x · ½ · (1 + tanh ½x), the form of SiLU in the report
    node("Mul", "wide half", "scaled"),
    node("Tanh", "scaled", "tanh"),
    node("Add", "tanh one", "shifted"),
    node("Mul", "scaled shifted", "active"),
)
SILU = (node("Sigmoid", "wide", "gate"), node("Mul", "wide gate", "active"))
LATER_CONCAT = (node("Concat", "left right sum", "early", axis=1), node("Relu", "early", "all"))

MATCHES: dict[str, Nodes] = {
    "the reported pattern": reported_pattern(),
    "the operand second": with_replacement("sum", node("Add", "active right", "sum")),
    "SiLU": with_replacement("active", *SILU),
    "SiLU by tanh": with_replacement("active", *TANH),
    "with batch norm": with_replacement(
        "active", node("BatchNormalization", "wide ones ones ones ones", "normal"), node("Relu", "normal", "active")
    ),
    "the sum not concatenated": with_replacement(
        "all", node("Concat", "left right", "part", axis=1), node("Add", "part one", "all")
    ),
    "along another axis": with_replacement("all", node("Concat", "right right", "all", axis=3)),
}
SIMILAR: dict[str, Nodes] = {
    "no activation": with_replacement("active", node("Identity", "wide", "active")),
    "no concat of the operand": with_replacement("all", node("Concat", "left sum", "all", axis=1)),
    "along the batch": with_replacement("all", node("Concat", "left right sum", "all", axis=0)),
    "a product": with_replacement("sum", node("Mul", "right active", "sum")),
    "no residual": with_replacement("sum", node("Add", "active one", "sum")),
    "a gate of a second convolution": with_replacement(
        "active",
        node("Conv", "right gate_weight", "second_wide"),
        node("Sigmoid", "second_wide", "gate"),
        node("Mul", "wide gate", "active"),
    ),
    "a pool between": with_replacement(
        "active", node("Relu", "wide", "activated"), node("GlobalAveragePool", "activated", "active")
    ),
    "the activation after the sum": [
        *with_replacement("active", node("Identity", "wide", "active"))[:-2],
        node("Relu", "sum", "after"),
        node("Concat", "left right after", "all", axis=1),
        reported_pattern()[-1],
    ],
}


@pytest.mark.parametrize("nodes", MATCHES.values(), ids=list(MATCHES))
def test_the_pattern_matches(nodes: Nodes, tmp_path: Path) -> None:
    save(nodes, tmp_path / "model.onnx")  # which checks that the graph is valid
    (place,) = read_strided_concat.find(graph(nodes))
    assert place.tensor == PLACE.tensor
    assert place.nodes[:2] == PLACE.nodes[:2]


@pytest.mark.parametrize("nodes", SIMILAR.values(), ids=list(SIMILAR))
def test_a_similar_graph_does_not_match(nodes: Nodes, tmp_path: Path) -> None:
    save(nodes, tmp_path / "model.onnx")
    assert read_strided_concat.find(graph(nodes)) == ()


def test_a_concat_that_the_sum_depends_on_does_not_match() -> None:
    nodes = [
        node("Conv", "image stem_weight", "stem"),
        node("Split", "stem", "left right", axis=1, num_outputs=2),
        node("Concat", "right right", "both", axis=1),
        node("Conv", "both weight", "wide"),
        node("Relu", "wide", "active"),
        node("Add", "right active", "sum"),
    ]
    assert read_strided_concat.find(graph(nodes)) == ()
    (place,) = read_strided_concat.find(graph([*nodes, node("Concat", "right sum", "all", axis=1)]))
    assert place == PLACE


@pytest.mark.integration
def test_every_bottleneck_matches_once(tmp_path: Path) -> None:
    model = catalog.find(
        f"{Path(__file__).parents[1] / 'user_models' / 'c2f.py'}:make",
        [Tensor("input", ("batch", 3, 32, 32))],
        {"bottlenecks": 3},
    )
    recipe = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.FP16)
    list(runner.run(Job(model, Options(images=1)), recipe, tmp_path))
    for stage in ("export", "simplify", "fp16"):
        places = read_strided_concat.find(onnx.load(tmp_path / stage / "model.onnx").graph)
        assert [place.tensor for place in places] == [f"/1/Add_{number}_output_0" for number in (1, 2, 3)]


factory.mount_zoo()


@pytest.mark.integration
@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_g3_x0_25", "mixnet_s"])
def test_models_of_the_zoo_do_not_match(name: str, tmp_path: Path) -> None:
    """ShuffleNet and MixNet add before the activation, and no later Add reads what they concatenate."""
    model = catalog.find(name, [Tensor("input", ("batch", 3, 64, 64))])
    list(runner.run(Job(model, Options(images=1)), (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY), tmp_path))
    graph = onnx.load(tmp_path / "simplify" / "model.onnx").graph
    assert {"Conv", "Relu"} & {node.op_type for node in graph.node}
    assert known_issues.find(graph) == ()
