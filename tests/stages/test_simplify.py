from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from deploytool.errors import ParityFailed, StageFailed
from deploytool.spec import Job
from deploytool.stages import simplify
from tests.conftest import QUICK, TINY, shelf


def make(finished: Path, out: Path) -> None:
    simplify.make(Job(TINY, QUICK), out, shelf(finished))


def test_the_simplified_graph_is_smaller_and_whole(finished: Path) -> None:
    before, after = (onnx.load(finished / verb / "graph.onnx") for verb in ("translate", "simplify"))
    onnx.checker.check_model(after, full_check=True)
    assert len(after.graph.node) < len(before.graph.node)
    assert after.graph.input[0].type == before.graph.input[0].type
    assert after.graph.output[0].type == before.graph.output[0].type
    assert not after.metadata_props


def test_a_simplifier_that_changes_the_result_is_caught(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil = """
weight = next(w for w in simple.graph.initializer if w.name.startswith("classifier.weight"))
values = onnx.numpy_helper.to_array(weight).copy()
values[3, 3] += 1e-3
weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
onnx.save(simple, sys.argv[2])
"""
    monkeypatch.setattr(simplify, "_PROGRAM", simplify._PROGRAM + spoil)
    with pytest.raises(ParityFailed, match="onnxsim changed what the graph computes: error"):
        make(finished, tmp_path / "graph.onnx")


def test_a_crash_is_one_line(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplify, "_PROGRAM", "import os; os.abort()")
    with pytest.raises(StageFailed, match="onnxsim was killed by SIGABRT"):
        make(finished, tmp_path / "graph.onnx")


def test_the_child_needs_no_torch() -> None:
    assert 'sys.modules["torch"] = None' in simplify._PROGRAM
