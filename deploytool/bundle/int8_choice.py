"""Decides from the report of a run which runtime gets INT8: where it is measured to be faster and is not worse."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool import runtimes
from deploytool.bundle.int8 import Choice, Why, choice_lines
from deploytool.results.artifact import OPENVINO_GRAPH, Kind
from deploytool.results.measure import Inferiority, Measure
from deploytool.results.report import Report, Speed
from deploytool.spec import SpeedVerdict, Stage

AS_QUANTISED, _FP8_AS_QUANTISED = "int8_emulation", "fp8_emulation"
_RUNNERS: Mapping[str, str] = {runtimes.ORT: "onnxruntime", runtimes.OPENVINO: "openvino"}


def for_cpu(result: Report) -> dict[str, Choice]:
    """The choice of each runtime for the CPU; the file is that of the run. Both as quantised and there it must hold."""
    own = {graph.file for graph in result.int8.graphs} if result.int8 else set()
    choices = {}
    for runtime, runner in _RUNNERS.items():
        file = OPENVINO_GRAPH if runtime == runtimes.OPENVINO and OPENVINO_GRAPH in own else Kind.INT8_GRAPH.value
        speeds = {speed.runner: speed for speed in result.speeds if (speed.stage, speed.file) == (Stage.INT8, file)}
        measures = _measures(result, Stage.INT8, file)
        choices[runtime] = _choice(file, [measures.get(AS_QUANTISED), measures.get(runner)], speeds.get(runner))
    return choices


def is_choice(result: Report) -> bool:
    """Whether the run has an INT8 graph beside the FP32 graph; one that came with its Q/DQ nodes is in its place."""
    return result.int8 is not None and not result.int8.as_given


def lines(result: Report) -> tuple[str, ...]:
    """What each runtime for the CPU would get from a bundle; nothing if there is no choice."""
    return tuple(choice_lines(for_cpu(result))) if is_choice(result) else ()


def for_engine(result: Report, file: str) -> Choice:
    """The choice of an INT8 engine before the FP16 engine of the same plan."""
    speed = next((speed for speed in result.speeds if (speed.stage, speed.file) == (Stage.BUILD, file)), None)
    return _choice(file, [*_measures(result, Stage.BUILD, file).values()], speed)


def engine_graph_holds(result: Report, stage: Stage, file: str) -> bool:
    """Whether a graph for engines is not worse as quantised, so that a device may build and time its engine."""
    measure = _measures(result, stage, file).get(AS_QUANTISED if stage is Stage.INT8 else _FP8_AS_QUANTISED)
    return measure is not None and measure.verdict is Inferiority.NOT_WORSE


def _measures(result: Report, stage: Stage, file: str) -> dict[str, Measure]:
    artifacts = result.measures.artifacts if result.measures else ()
    return {
        each.runner: each.measure for each in artifacts if (each.stage, each.file) == (stage, file) and each.measure
    }


def _choice(file: str, measures: list[Measure | None], speed: Speed | None) -> Choice:
    verdicts = {measure.verdict if measure else None for measure in measures} or {None}
    gain = speed.own_gain if speed else None
    if Inferiority.WORSE in verdicts:
        return Choice("", Why.WORSE, gain)
    if Inferiority.NOT_DECIDED in verdicts:
        return Choice("", Why.NOT_DECIDED, gain)
    if None in verdicts or speed is None or gain is None:
        return Choice("", Why.NOT_MEASURED, gain)
    if speed.verdict is SpeedVerdict.NO_VERDICT:
        return Choice("", Why.NO_VERDICT, gain)
    return Choice(file, Why.FASTER, gain) if gain.low > 1 else Choice("", Why.NO_GAIN, gain)
