from __future__ import annotations

import pytest

from deploytool.errors import BadInput
from deploytool.exporters import name_scopes
from deploytool.exporters.name_scopes import module_path

DEEP = {"1", "1.parts", "1.parts.0", "1.parts.0.0", "1.parts.0.0.2"}
MODULES = DEEP | {"", "stem", "stem.0", "stem.1", "net", "net.stem", "net.stem.0"}
MODULES |= {"stage2", "stage2.0", "stage2.0.compress"}


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("/stem/stem.0/Conv", "stem.0"),
        ("/stem/1/Conv_0", "stem.1"),
        ("/net/stem/stem.0/Conv", "net.stem.0"),
        ("/stage2/stage2.0/compress/Conv", "stage2.0.compress"),
        ("/stage2/0/compress/Conv_12", "stage2.0.compress"),
        ("/1/parts.0/parts.0.0/parts.0.0.2/Conv", "1.parts.0.0.2"),
        ("/stage2/0/elsewhere/Conv_12", "stage2.0"),
        ("/Transpose", ""),
        ("/model/Reshape_4", ""),
        ("graph_input_cast0", ""),
        ("", ""),
    ],
)
def test_a_node_name_maps_to_its_module(node: str, module: str) -> None:
    assert module_path(node, MODULES) == module


NODES = ("/stem/stem.0/Conv", "/stem/stem.2/Relu", "/stage2/stage2.0/compress/Conv", "/stage2/stage2.0/Add", "/Flatten")
KEYS = ("stem.0.weight", "stage2.0.compress.weight", "stage2.0.compress.bias", "scale")
PATHS = name_scopes.modules(KEYS)


def test_modules_are_derived_from_weight_names() -> None:
    assert {"", "stem", "stem.0", "stage2", "stage2.0", "stage2.0.compress"} == PATHS


@pytest.mark.parametrize(
    ("names", "nodes"),
    [
        (["stem"], NODES[:2]),
        (["stem.0"], NODES[:1]),
        (["stage2"], NODES[2:4]),
        (["stage2.0.compress", "/Flatten"], (NODES[2], NODES[4])),
        ([NODES[1]], NODES[1:2]),
        ([], ()),
    ],
)
def test_a_name_selects_a_node_or_all_nodes_of_a_module(names: list[str], nodes: tuple[str, ...]) -> None:
    assert name_scopes.matching_nodes(names, NODES, PATHS) == set(nodes)


@pytest.mark.parametrize(
    ("name", "near"), [("stage2.1", "stage2.0"), ("steam", "stem"), ("/stage2/stage2.0/add", "/stage2/stage2.0/Add")]
)
def test_the_remedy_for_an_unknown_name_is_the_nearest_one(name: str, near: str) -> None:
    with pytest.raises(BadInput, match=f"'{name}'") as caught:
        name_scopes.matching_nodes(["stem", name], NODES, PATHS)
    assert near in caught.value.remedy


@pytest.mark.parametrize("wanted", [(), NODES, NODES[:2], NODES[1:3], NODES[2:4], (NODES[0], NODES[4])])
def test_shortest_names_select_exactly_the_given_nodes(wanted: tuple[str, ...]) -> None:
    assert name_scopes.matching_nodes(name_scopes.shortest_names(wanted, NODES, PATHS), NODES, PATHS) == set(wanted)


def test_a_module_name_replaces_the_names_of_its_nodes() -> None:
    assert name_scopes.shortest_names(NODES[:3], NODES, PATHS) == ["stem", "stage2.0.compress"]
    assert name_scopes.shortest_names(NODES[3:4], NODES, PATHS) == ["/stage2/stage2.0/Add"]


def test_groups_follow_modules_and_contain_every_node() -> None:
    groups = name_scopes.group_by_module(NODES, PATHS)
    assert groups == [["/stem/stem.0/Conv"], ["/stem/stem.2/Relu"], list(NODES[2:4]), ["/Flatten"]]
