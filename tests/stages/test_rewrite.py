from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploytool import plain, rewrites
from deploytool.artifact import Given, Kind
from deploytool.errors import BadInput, ParityFailed
from deploytool.measure import latency
from deploytool.rewrites import Outcome
from deploytool.spec import Job, Range
from deploytool.stages import rewrite
from tests.conftest import QUICK, TINY, shelf


@pytest.fixture
def given(finished: Path) -> Given:
    """What stands on the shelf when the graph has just been simplified."""
    kept = shelf(finished).artifacts
    return Given(tuple(each for each in kept if each.made_by in ("instantiate", "record", "translate", "simplify")))


def make(given: Given, out: Path, asked: str = "auto", **more: Any) -> dict[str, Any]:
    return dict(rewrite.make(Job(TINY, dataclasses.replace(QUICK, rewrite=asked, **more)), out, given))


def speeds(monkeypatch: pytest.MonkeyPatch, times: Mapping[str, float]) -> list[list[str]]:
    """Each form takes so many milliseconds, always; returns who was timed together."""
    asked: list[list[str]] = []

    def interleave(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, latency.Milliseconds]:
        asked.append(list(calls))
        for call in calls.values():
            call()
        return {name: np.full(9, times.get(name, 10.0)) for name in calls}

    monkeypatch.setattr(latency, "interleave", interleave)
    return asked


def test_the_fastest_form_is_kept(given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, {"dense": 4.0, "folded": 8.0})
    notes = make(given, tmp_path / "graph.onnx")
    assert notes["chosen"] == "dense"
    assert notes["remarks"] == [
        "dense, of plain, folded, grouped: 2.50× (2.50–2.50) the plain graph's speed at batch 1, "
        "2.50× (2.50–2.50) the plain graph's speed at batch 8 (measured)"
    ]
    kept = onnx.load(tmp_path / "graph.onnx")
    onnx.checker.check_model(kept, full_check=True)
    assert [node.op_type for node in kept.graph.node].count("Add") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["graph.onnx"]


def test_a_form_that_is_not_surely_faster_is_not_kept(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds(monkeypatch, {})
    notes = make(given, tmp_path / "graph.onnx")
    assert notes["chosen"] == "plain"
    assert notes["remarks"] == ["plain: none of folded, grouped, dense is surely faster (measured)"]
    assert (tmp_path / "graph.onnx").read_bytes() == given.latest(Kind.GRAPH).path.read_bytes()


def test_the_hopeless_are_not_timed_again_and_neither_is_what_takes_too_long(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = speeds(monkeypatch, {"dense": 20.0})
    make(given, tmp_path / "graph.onnx")
    assert asked == [["plain", "folded", "grouped", "dense"], ["plain", "folded", "grouped"]]
    asked = speeds(monkeypatch, {})
    make(given, tmp_path / "graph.onnx", batch=Range(1, 500, 1000))
    assert len(asked) == 1


def test_the_times_are_real(given: Given, tmp_path: Path) -> None:
    notes = make(given, tmp_path / "graph.onnx")
    told = {each["names"][0]: each for each in notes["candidates"]}
    assert set(told) == {"plain", "folded", "grouped", "dense"}
    assert all(each["max_error"] <= 1e-5 for each in told.values())
    assert all("1" in each["faster_than_plain"] for each in told.values())
    fired = plain.decode(Mapping[str, Outcome], notes["rewrites"])  # type: ignore[type-abstract]  # a hint as it is
    assert fired["pool_globally"].fired == ("/GlobalAveragePool",)
    assert fired["merge_siblings"].fired == ()
    assert fired["merge_siblings"].passed


@pytest.mark.parametrize(
    ("asked", "remark"),
    [
        ("none", "plain, as asked for"),
        ("plain", "plain, as asked for"),
        ("folded", "folded, as asked for"),
        ("fewest", "fewest, as asked for"),
    ],
)
def test_a_form_that_is_asked_for_is_made(given: Given, tmp_path: Path, asked: str, remark: str) -> None:
    assert make(given, tmp_path / "graph.onnx", asked)["remarks"] == [remark]


def test_a_form_that_nobody_knows_is_refused(given: Given, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no rewrite 'fastest'"):
        make(given, tmp_path / "graph.onnx", "fastest")


def test_only_what_serves_is_timed(given: Given, tmp_path: Path) -> None:
    notes = make(given, tmp_path / "graph.onnx", runner="reference")
    assert notes["remarks"] == ["plain: only ONNX Runtime is timed"]


def spoiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the rewrites gets a weight wrong."""
    honest = rewrites.candidates

    def candidates(model: onnx.ModelProto, recipes: Mapping[str, tuple[str, ...]]) -> list[rewrites.Candidate]:
        forms = honest(model, recipes)
        weight = next(each for each in forms[-1].model.graph.initializer if len(each.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), weight.name))
        return forms

    monkeypatch.setattr(rewrites, "candidates", candidates)


def test_a_form_that_computes_something_else_is_never_kept(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiling(monkeypatch)
    speeds(monkeypatch, {"dense": 1.0})
    notes = make(given, tmp_path / "graph.onnx")
    assert notes["chosen"] == "plain"
    assert notes["remarks"][1].startswith("dense is not what it replaces: error ")
    with pytest.raises(ParityFailed, match="--rewrite dense: dense is not what it replaces"):
        make(given, tmp_path / "graph.onnx", "dense")
