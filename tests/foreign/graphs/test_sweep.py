"""The sweep's table, its hostile graphs, and the verdict of its two checks together."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.conftest import ROOT
from tests.foreign.graphs import hostile, independent, sweep
from tests.foreign.graphs.rows import HOSTILE, ROWS, Origin, Row


def test_there_are_sixty_rows_of_every_origin() -> None:
    counts = Counter(row.origin for row in ROWS)
    assert len({row.name for row in ROWS}) == len(ROWS) >= 60
    assert counts[Origin.TIMM] >= 20
    assert counts[Origin.TRANSFORMERS] >= 20
    assert counts[Origin.CARRIED] >= 8
    assert counts[Origin.HOSTILE] >= 12


def test_every_row_of_transformers_has_a_maker() -> None:
    tree = ast.parse((ROOT / "tests/foreign/graphs/makers.py").read_text())
    keys = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert {row.maker for row in ROWS if row.origin is Origin.TRANSFORMERS} <= set(keys)


@pytest.mark.parametrize(
    "row", [row for row in HOSTILE if row.maker not in ("bfloat", "new")], ids=lambda row: row.name
)
def test_a_hostile_graph_is_valid_and_runs(row: Row, tmp_path: Path) -> None:
    hostile.make(row.maker, tmp_path)
    onnx.checker.check_model(tmp_path / "model.onnx")
    assert ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"]).get_outputs()


@pytest.mark.parametrize("error", [1e-4, 1e-1])
def test_a_pass_that_the_independent_check_contradicts_is_false(error: float) -> None:
    result = {"noise": {"fp32": 1e-6, "fp16": 1e-3}, "tolerances": {"fp32": 1e-4, "fp16": 1e-2}}
    judged = sweep._judged({"fp32": {"y": 2e-6}, "fp16": {"y": error}, "nodes": 3, "outputs": ["y"]}, result)
    assert judged["verdict"] == ("pass" if error < 1e-2 else "false pass")
    assert judged["multiples"] == {"fp32": 2.0, "fp16": round(error / 1e-3, 2)}


def test_the_independent_check_sees_a_wrong_weight(tmp_path: Path) -> None:
    row = next(row for row in HOSTILE if row.maker == "elsewhere")
    hostile.make(row.maker, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx")
    moved = onnx.load(tmp_path / "model.onnx")
    for value in (*moved.graph.input, *moved.graph.output):  # the batch first, as a run's graph has it
        sizes = value.type.tensor_type.shape.dim
        sizes[0].ClearField("dim_value")
        sizes[0].dim_param = "batch"
        sizes[1].dim_value = 5
        sizes[1].ClearField("dim_param")
        sizes[1].dim_value = 5
    arrays = independent.draw(moved, 2, {})
    exact = independent.given(row, tmp_path, arrays)
    right = independent._error(moved, arrays, exact, fp16=False)
    weight = moved.graph.initializer[0]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.1), weight.name))
    wrong = independent._error(moved, arrays, exact, fp16=False)
    assert len(graph.graph.node) == 2
    assert right["y"] < 1e-6
    assert wrong["y"] > 1e-3
