"""Both ways of merging pointwise convolutions on slices: grouped, and dense."""

from __future__ import annotations

import pytest
from onnx import helper

from tests.rewrites.drawing import Drawing, kinds, proved, refused

BOTH = ("group_split_pointwise", "densify_split_pointwise")


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("branches", [2, 3, 4])
def test_equal_slices(name: str, branches: int) -> None:
    net = Drawing(12)
    parts = [
        net.conv(part, 5, bias=number == 1)
        for number, part in enumerate(net.split("picture", [12 // branches] * branches))
    ]
    after = proved(net.model(net.concat(*parts)), name, 1)
    assert kinds(after) == ["Conv"]
    group = next(each for each in after.graph.node[0].attribute if each.name == "group")
    assert helper.get_attribute_value(group) == (branches if name == BOTH[0] else 1)


def test_unequal_slices_are_only_densified() -> None:
    net = Drawing(12)
    narrow, wide = net.split("picture", [4, 8])
    model = net.model(net.concat(net.conv(narrow, 5), net.conv(wide, 3, groups=1)))
    refused(model, BOTH[0], "the slices are not equally wide")
    proved(model, BOTH[1], 1)


@pytest.mark.parametrize("name", BOTH)
def test_slices_that_are_grouped_themselves(name: str) -> None:
    net = Drawing(16)
    parts = [net.conv(part, 6, groups=2) for part in net.split("picture", [8, 8])]
    proved(net.model(net.concat(*parts)), name, 1)


@pytest.mark.parametrize("name", BOTH)
def test_why_not(name: str) -> None:
    net = Drawing(8)
    refused(net.model(net.conv("picture", 8)), name, "no Split ends in pointwise convolutions")
    net = Drawing(8)
    parts = [net.conv(part, 4, 3) for part in net.split("picture", [4, 4])]
    refused(net.model(net.concat(*parts)), name, "no Split ends in pointwise convolutions")
