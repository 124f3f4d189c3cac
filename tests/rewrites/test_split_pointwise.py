"""The two rewrites that merge pointwise convolutions on slices: into a grouped one, and into a dense one."""

from __future__ import annotations

import pytest
from onnx import helper

from tests.rewrites.builder import GraphBuilder, assert_exact, assert_skipped, op_types

REWRITES = ("group_split_pointwise", "densify_split_pointwise")


@pytest.mark.parametrize("name", REWRITES)
@pytest.mark.parametrize("branches", [2, 3, 4])
def test_equal_slices(name: str, branches: int) -> None:
    net = GraphBuilder(12)
    parts = [
        net.conv(part, 5, bias=number == 1)
        for number, part in enumerate(net.split("image", [12 // branches] * branches))
    ]
    after = assert_exact(net.model(net.concat(*parts)), name, 1)
    assert op_types(after) == ["Conv"]
    group = next(attribute for attribute in after.graph.node[0].attribute if attribute.name == "group")
    assert helper.get_attribute_value(group) == (branches if name == REWRITES[0] else 1)


def test_unequal_slices_are_only_densified() -> None:
    net = GraphBuilder(12)
    narrow, wide = net.split("image", [4, 8])
    model = net.model(net.concat(net.conv(narrow, 5), net.conv(wide, 3, groups=1)))
    assert_skipped(model, REWRITES[0], "the slices differ in width")
    assert_exact(model, REWRITES[1], 1)


@pytest.mark.parametrize("name", REWRITES)
def test_grouped_convolutions_on_slices(name: str) -> None:
    net = GraphBuilder(16)
    parts = [net.conv(part, 6, groups=2) for part in net.split("image", [8, 8])]
    assert_exact(net.model(net.concat(*parts)), name, 1)


@pytest.mark.parametrize("name", REWRITES)
def test_reasons_to_skip(name: str) -> None:
    net = GraphBuilder(8)
    assert_skipped(net.model(net.conv("image", 8)), name, "no Split ends in pointwise convolutions")
    net = GraphBuilder(8)
    parts = [net.conv(part, 4, 3) for part in net.split("image", [4, 4])]
    assert_skipped(net.model(net.concat(*parts)), name, "no Split ends in pointwise convolutions")
