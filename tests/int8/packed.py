"""Runs of small zoo models with INT8, packed as if their INT8 graphs had been measured to be faster and not worse."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploytool.bundle.int8_choice import AS_QUANTISED
from deploytool.data import images
from deploytool.loading.stage_inputs import StageInputs
from deploytool.pipeline import runner
from deploytool.results import report
from deploytool.results.artifact import ENGINE_GRAPH, OPENVINO_GRAPH, Kind
from deploytool.results.measure import AGREEMENT, Difference, Inferiority, Measure, MeasuredArtifact, Measures
from deploytool.results.report import Gain, Report, Speed
from deploytool.spec import Job, Model, Options, Source, Stage, Status
from deploytool.stages import pack

RECIPE = (
    *(Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.CALIBRATE, Stage.FP16, Stage.INT8),
    Stage.VALIDATE,
)
RUNNERS = ("onnxruntime", "openvino")
FASTER = Gain(1.5, 1.4, 1.6)


def run(model: Model, seed: int, home: Path, pixels: images.Pixels) -> StageInputs:
    """A run with random weights, calibrated on these images."""
    path = home.with_name(f"{home.name}_calibration.npz")
    named: dict[str, Any] = {model.inputs[0].name: images.normalise(pixels, model.preprocessing)}
    np.savez(path, **named)
    options = Options(seed=seed, images=8, seconds=0.0, rewrite="original", calibration=Source(str(path), str(seed)))
    return StageInputs(tuple(runner.run(Job(model, options), RECIPE, home)))


def measured(file: str, runner_name: str, verdict: Inferiority = Inferiority.NOT_WORSE) -> MeasuredArtifact:
    measure = Measure(1.0, 1.0, 400, Difference(0.0, -0.005, 0.0), verdict)
    return MeasuredArtifact(Stage.INT8, file, runner_name, "cpu", Status.MEASURED, measure)


def speed(runner_name: str, gain: Gain | None = FASTER, file: str = Kind.INT8_GRAPH.value) -> Speed:
    return Speed(Stage.INT8, file, runner_name, Status.MEASURED, 1.0, 2.0, 2.0, own_gain=gain)


def judged(given: Report, artifacts: Sequence[MeasuredArtifact], speeds: Sequence[Speed]) -> Report:
    """The report with these measures and speeds."""
    measures = Measures(AGREEMENT, None, 0.01, False, "", 400, 1.0, tuple(artifacts))
    return dataclasses.replace(given, measures=measures, speeds=tuple(speeds))


def write(inputs: StageInputs, folder: Path, artifacts: Sequence[MeasuredArtifact], speeds: Sequence[Speed]) -> Path:
    """Packs a run with another report; returns the bundle."""
    folder.mkdir()
    latest = inputs.latest(Kind.REPORT)
    for file in latest.path.parent.glob("corner_*.npz"):
        shutil.copy(file, folder)
    report.write(folder / "report.json", judged(report.read(latest.path), artifacts, speeds))
    changed = dataclasses.replace(latest, path=folder / "report.json", notes={**latest.notes, "broken": []})
    artifacts_then = tuple(changed if artifact is latest else artifact for artifact in inputs.artifacts)
    pack.make(
        Job(inputs.source().definition, Options()), folder / "bundle" / "manifest.json", StageInputs(artifacts_then)
    )
    return folder / "bundle"


def acceptable_rows(*, slower: bool = False) -> tuple[list[MeasuredArtifact], list[Speed]]:
    """The measures and speeds of INT8 graphs that are faster and not worse; with `slower` by another factor."""
    files, gain = (Kind.INT8_GRAPH.value, OPENVINO_GRAPH), Gain(1.2, 1.1, 1.3) if slower else FASTER
    artifacts = [measured(file, name) for file in files for name in (AS_QUANTISED, *RUNNERS)]
    artifacts.append(measured(ENGINE_GRAPH, AS_QUANTISED))
    return artifacts, [speed(name, gain, file) for file in files for name in RUNNERS]


def acceptable(inputs: StageInputs, folder: Path) -> Path:
    """The bundle of a run whose INT8 graphs are faster and not worse in both runtimes."""
    return write(inputs, folder, *acceptable_rows())
