"""What only the checker of onnx refuses in a given file ends in one line, and is no problem if it can be inferred."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

import deploytool
from deploytool.errors import StageFailed
from tests import given_graphs

pytestmark = pytest.mark.integration


def export(graph: onnx.ModelProto, folder: Path) -> deploytool.Run:
    onnx.save(graph, folder / "net.onnx")
    return deploytool.export(str(folder / "net.onnx"), out=folder / "run", quick=True, to="onnx")


def test_a_graph_that_only_the_checker_refuses_ends_in_one_line(tmp_path: Path) -> None:
    """ONNX Runtime runs it, so that it is found when the graph is written."""
    graph = given_graphs.mlp()
    graph.opset_import.append(helper.make_opsetid("own", 1 << 40))
    with pytest.raises(StageFailed, match=r"net\.onnx is not valid: Opset import version 1099511627776"):
        export(graph, tmp_path)


def test_an_output_without_a_shape_is_no_problem(tmp_path: Path) -> None:
    """The checker demands the shape, ONNX Runtime infers it."""
    graph = given_graphs.mlp()
    graph.graph.output[0].type.tensor_type.ClearField("shape")
    assert export(graph, tmp_path).passed
