"""Which FP32 graph OpenVINO's INT8 graph is made from, and its calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from deploytool.backends import openvino
from deploytool.benchmark import form_timing, int8_form
from deploytool.benchmark.ratio import Ratio
from deploytool.data.golden import read
from deploytool.errors import StageFailed
from deploytool.loading.stage_inputs import StageInputs
from deploytool.results.artifact import Artifact, Kind
from deploytool.rewrites import forms
from deploytool.rewrites.graph import storage
from deploytool.rewrites.recipes import RECIPES
from deploytool.spec import AUTO, Job, Options, Range, Source, Stage
from deploytool.stages import calibrate, int8, rewrite
from tests.conftest import QUICK, TINY, artifacts

NAMES = ("original", "folded", "grouped")  # the different forms of the graph


@pytest.fixture
def inputs(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageInputs:
    """The inputs of the stage; the graph of the run has the form `folded`."""
    stages = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY)
    before = StageInputs(tuple(artifact for artifact in artifacts(finished).artifacts if artifact.made_by in stages))
    monkeypatch.setattr(form_timing, "measure", timing({"folded": 2.0}))
    (tmp_path / "rewrite").mkdir()
    path = tmp_path / "rewrite" / "model.onnx"
    notes = rewrite.make(Job(TINY, dataclasses.replace(QUICK, rewrite=AUTO)), path, before)
    made = Artifact(Kind.GRAPH, path, "digest", "key", Stage.REWRITE, notes, 0.0, fresh=True)
    monkeypatch.setattr(openvino, "is_installed", lambda: True)
    return StageInputs((*before.artifacts, made))


def timing(speeds: Mapping[str, float]) -> Any:
    """A replacement of the timing: speeds of forms over the original."""

    def measure(sessions: Mapping[str, object], *_: object, **__: object) -> tuple[form_timing.Trials, None]:
        given = {"original": 1.0, **speeds}
        return {name: {1: Ratio(*[given.get(name, 0.9)] * 3)} for name in sessions}, None

    return measure


def made(inputs: StageInputs, folder: Path) -> tuple[set[str], dict[str, Any]]:
    """The files and the notes of the stage."""
    data = np.random.default_rng(3).normal(size=(24, 3, 32, 32)).astype(np.float32)
    folder.mkdir()
    np.savez(folder.with_suffix(".npz"), input=data)
    options = dataclasses.replace(QUICK, rewrite=AUTO, calibration=Source(str(folder.with_suffix(".npz")), "digest"))
    notes = dict(calibrate.make(Job(TINY, options), folder / "ranges.npz", inputs))
    return {path.name for path in folder.iterdir() if "equalised" not in path.name}, notes


@pytest.mark.parametrize(
    ("speeds", "form"), [({"grouped": 1.5, "folded": 1.2}, "grouped"), ({}, "original"), ({"folded": 1.1}, "folded")]
)
def test_the_form_that_is_fastest_in_int8_is_calibrated(
    speeds: Mapping[str, float],
    form: str,
    inputs: StageInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    both_runtimes: None,
) -> None:
    monkeypatch.setattr(form_timing, "measure", timing(speeds))
    files, notes = made(inputs, tmp_path / "calibrate")
    expected = {"ranges.npz", "engine_ranges.npz"}
    if form == "folded":
        assert files == expected
        return
    assert files == expected | {"openvino.onnx", "openvino_ranges.npz"}
    assert f"OpenVINO's INT8 graph is made from the form {form}, the fastest there" in notes["remarks"]
    simplified = next(each for each in inputs.chain(Kind.GRAPH) if each.made_by is Stage.SIMPLIFY)
    (wanted,) = (each for each in forms.candidates(storage.load(simplified.path)) if each.name == form)
    assert onnx.load(tmp_path / "calibrate" / "openvino.onnx") == wanted.model
    bases = {
        file: base
        for file, base, *_ in int8._variants(inputs.fp32_graph().path, tmp_path / "calibrate" / "ranges.npz", [])
    }
    assert bases["openvino.onnx"][0].graph == wanted.model


def test_without_timing_it_is_the_form_that_is_fastest_in_fp32(
    inputs: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StageFailed("no kernel", "")

    monkeypatch.setattr(int8_form, "fastest", fail)
    files, notes = made(inputs, tmp_path / "first")
    assert "openvino.onnx" not in files
    assert "forms are not timed in INT8 in OpenVINO: no kernel" in notes["remarks"]
    graph = inputs.fp32_graph().path
    storage.copy(graph, graph.with_name("openvino.onnx"))
    files, _ = made(inputs, tmp_path / "second")
    assert (tmp_path / "second" / "openvino.onnx").read_bytes() == graph.read_bytes()


def test_forms_that_failed_are_not_tried(inputs: StageInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, ...]] = []

    def record(graph: onnx.ModelProto, names: list[str], *_: object) -> None:
        tried.append(tuple(names))
        raise StageFailed("stop", "")

    monkeypatch.setattr(int8_form, "fastest", record)
    made(inputs, tmp_path / "first")
    graph = inputs.fp32_graph()
    candidates: Any = graph.notes["candidates"]
    for each in candidates:
        if each["names"][0] == "grouped":
            each["max_error"] = None
    made(inputs, tmp_path / "second")
    assert tried == [NAMES, NAMES[:2]]


def test_the_fastest_form_is_timed_as_it_is_quantised(finished: Path, both_runtimes: None) -> None:
    given = artifacts(finished)
    (simplified,) = (each for each in given.chain(Kind.GRAPH) if each.made_by is Stage.SIMPLIFY)
    graph, cases = storage.load(simplified.path), read(given.latest(Kind.GOLDEN).path).inputs
    best = int8_form.fastest(graph, [*RECIPES], cases, Range(1, 2, 4))
    assert best.name in NAMES
    quantised = onnx.load_from_string(int8_form._quantised(best.model, cases))
    assert "QuantizeLinear" in {node.op_type for node in quantised.graph.node}
    assert int8_form.fastest(graph, ["original"], cases, Options().batch).name == "original"
