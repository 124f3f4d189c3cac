"""The sentences about a metric: one for all artifacts of equal figures."""

from __future__ import annotations

from dataclasses import replace

from deploytool.results import measure_lines
from deploytool.results.measure import Difference, Inferiority, Measure, MeasuredArtifact, Measures
from deploytool.spec import Stage, Status, Task
from deploytool.sweeps import summary
from tests.results import test_verdict

EQUAL = Measure(0.8, 0.8, 360, Difference(0.0, -0.01, 0.01), Inferiority.NOT_DECIDED, more=401)


def artifact(stage: Stage, measure: Measure | None, runner: str = "onnxruntime") -> MeasuredArtifact:
    return MeasuredArtifact(stage, "model.onnx", runner, "cpu", Status.MEASURED, measure)


def measures(*artifacts: MeasuredArtifact) -> Measures:
    return Measures("metrics.py:score", Task.CLASSIFY, 0.005, True, "images", 360, 0.8, artifacts)


def test_artifacts_of_equal_figures_share_a_line_and_others_have_their_own() -> None:
    nearly = replace(EQUAL, more=403, difference=Difference(0.00001, -0.00998, 0.01001))
    apart = replace(EQUAL, difference=Difference(-0.002, -0.012, 0.008), more=1234)
    found = measures(
        artifact(Stage.EXPORT, EQUAL),
        artifact(Stage.REWRITE, replace(EQUAL, verdict=Inferiority.NOT_WORSE)),
        artifact(Stage.FP16, nearly, "fp32_compute"),
        artifact(Stage.FP16, apart, "fp16_emulation"),
        artifact(Stage.BUILD, None),
    )
    first, second = measure_lines.undecided_lines(found)
    assert first.startswith("export and fp16 as converted by score: not decided: about 400 more images needed, +0.0000")
    assert second.startswith("fp16 in FP16 arithmetic by score: not decided: about 1,200 more images needed, -0.0020")
    assert measure_lines.worse_lines(found) == ()


def test_three_artifacts_are_listed() -> None:
    worse = replace(EQUAL, verdict=Inferiority.WORSE, more=None)
    found = measures(*(artifact(stage, worse) for stage in (Stage.EXPORT, Stage.SIMPLIFY, Stage.FP16)))
    (line,) = measure_lines.worse_lines(found)
    assert line.startswith("export, simplify and fp16 by score: worse, +0.0000 (-0.0100 to +0.0100) from the source")


def test_the_drop_of_a_file_in_a_sweep_has_the_opposite_sign_of_the_difference() -> None:
    measured = artifact(Stage.FP16, replace(EQUAL, difference=Difference(-0.002, -0.012, 0.008)))
    report = replace(test_verdict.written(), measures=measures(measured, artifact(Stage.BUILD, None)))
    (drop,) = summary.drops(report)
    assert (drop.metric, drop.value, drop.low, drop.high) == ("score", 0.002, -0.008, 0.012)
    assert (drop.stage, drop.margin, drop.verdict) == (Stage.FP16, 0.005, Inferiority.NOT_DECIDED)
    assert summary.drops(test_verdict.written()) == ()
