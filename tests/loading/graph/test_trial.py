"""A given graph is first seen by onnx and ONNX Runtime in a child process, which tells in one line what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from deploytool.errors import BadInput
from deploytool.loading.graph import definition, trial
from tests import given_graphs


def answers(graph: onnx.ModelProto, folder: Path) -> list[list[trial.Answer]]:
    onnx.save(graph, folder / "net.onnx")
    model = definition.read(folder / "net.onnx", "net", ())
    return trial.run(model, [{model.inputs[0].name: np.ones((2, 8), np.float32)}])


def test_a_sound_graph_answers(tmp_path: Path) -> None:
    assert answers(given_graphs.mlp(), tmp_path) == [[trial.Answer("float32", (2, 4))]]


def test_a_graph_that_the_checker_of_onnx_refuses_is_a_bad_input(tmp_path: Path) -> None:
    """ONNX Runtime runs it, and later stages check what they write."""
    graph = given_graphs.mlp()
    graph.opset_import.append(helper.make_opsetid("own", 1 << 40))
    with pytest.raises(BadInput, match=r"net\.onnx is not a valid graph: Opset import version 1099511627776"):
        answers(graph, tmp_path)
