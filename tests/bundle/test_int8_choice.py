"""Which runtime gets INT8: the one where it is measured to be faster and not worse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deploytool.bundle import int8_choice
from deploytool.bundle.int8 import Choice, Why, choice_lines
from deploytool.bundle.int8_choice import AS_QUANTISED
from deploytool.results.artifact import ENGINE_GRAPH, OPENVINO_GRAPH, Kind
from deploytool.results.int8 import Int8, Int8Graph
from deploytool.results.measure import Inferiority, MeasuredArtifact
from deploytool.results.report import SCHEMA, Gain, Report, Speed
from deploytool.spec import SpeedVerdict, Stage, Status
from tests.int8 import packed
from tests.int8.packed import FASTER, measured, speed

FILE = Kind.INT8_GRAPH.value
EMPTY = Report(SCHEMA, "tiny", "a CPU", 1, 10, 4, 0.01, None, (), (), None, None, None, (), (), (), {})
SLOWER = Gain(1.02, 0.98, 1.1)
WORSE, OPEN, HOLDS = Inferiority.WORSE, Inferiority.NOT_DECIDED, Inferiority.NOT_WORSE


def choice(artifacts: list[MeasuredArtifact], speeds: list[Speed], runtime: str = "ort") -> Choice:
    return int8_choice.for_cpu(packed.judged(EMPTY, artifacts, speeds))[runtime]


@pytest.mark.parametrize(
    ("quantised", "kernels", "gain", "path", "why"),
    [
        (HOLDS, HOLDS, FASTER, FILE, Why.FASTER),
        (HOLDS, HOLDS, SLOWER, "", Why.NO_GAIN),
        (HOLDS, HOLDS, None, "", Why.NOT_MEASURED),
        (HOLDS, WORSE, FASTER, "", Why.WORSE),
        (WORSE, HOLDS, FASTER, "", Why.WORSE),
        (OPEN, HOLDS, FASTER, "", Why.NOT_DECIDED),
        (HOLDS, OPEN, SLOWER, "", Why.NOT_DECIDED),
    ],
)
def test_int8_is_for_a_runtime_in_which_it_is_faster_and_not_worse(
    quantised: Inferiority, kernels: Inferiority, gain: Gain | None, path: str, why: Why
) -> None:
    artifacts = [measured(FILE, AS_QUANTISED, quantised), measured(FILE, "onnxruntime", kernels)]
    assert choice(artifacts, [speed("onnxruntime", gain)]) == Choice(path, why, gain)


def test_each_runtime_has_a_choice_of_its_own() -> None:
    artifacts = [measured(FILE, name) for name in (AS_QUANTISED, "onnxruntime", "openvino")]
    speeds = [speed("onnxruntime", SLOWER), speed("openvino")]
    assert choice(artifacts, speeds).why is Why.NO_GAIN
    assert choice(artifacts, speeds, "openvino").path == FILE
    assert choice(artifacts[:2], speeds, "openvino").why is Why.NOT_MEASURED


def test_openvino_gets_its_own_graph_where_the_run_has_one() -> None:
    described = Int8Graph(OPENVINO_GRAPH, "u8s8", "mse", False, False, 0.0, 1.0, 1.0)
    artifacts = [measured(OPENVINO_GRAPH, name) for name in (AS_QUANTISED, "openvino")]
    speeds = [speed("openvino", FASTER, OPENVINO_GRAPH), speed("openvino", SLOWER)]
    result = replace(packed.judged(EMPTY, artifacts, speeds), int8=Int8(24, (described,)))
    assert int8_choice.for_cpu(result)["openvino"] == Choice(OPENVINO_GRAPH, Why.FASTER, FASTER)
    assert int8_choice.for_cpu(result)["ort"].why is Why.NOT_MEASURED


def test_an_uneven_machine_gives_no_int8() -> None:
    artifacts = [measured(FILE, name) for name in (AS_QUANTISED, "onnxruntime")]
    uneven = replace(speed("onnxruntime"), verdict=SpeedVerdict.NO_VERDICT)
    assert choice(artifacts, [uneven]) == Choice("", Why.NO_VERDICT, FASTER)


def test_a_run_that_measured_nothing_gives_no_int8() -> None:
    assert int8_choice.for_cpu(EMPTY) == {"ort": Choice("", Why.NOT_MEASURED), "openvino": Choice("", Why.NOT_MEASURED)}
    assert not int8_choice.engine_graph_holds(EMPTY, Stage.INT8, ENGINE_GRAPH)


def test_an_engine_is_chosen_by_its_own_measure_and_its_gain_over_fp16() -> None:
    engine = replace(measured("int8_model.plan", "tensorrt_rtx"), stage=Stage.BUILD)
    timed = Speed(Stage.BUILD, "int8_model.plan", "tensorrt_rtx", Status.MEASURED, 1.0, 2.0, 2.0, own_gain=FASTER)
    result = packed.judged(EMPTY, [engine], [timed])
    assert int8_choice.for_engine(result, "int8_model.plan") == Choice("int8_model.plan", Why.FASTER, FASTER)
    unrun = replace(engine, status=Status.BUILT_NOT_RUN, measure=None)
    assert int8_choice.for_engine(packed.judged(EMPTY, [unrun], []), "int8_model.plan").why is Why.NOT_MEASURED


def test_each_choice_has_a_line() -> None:
    choices = {
        "ort": Choice(FILE, Why.FASTER, FASTER),
        "openvino": Choice("", Why.NO_GAIN, SLOWER),
        "trt": Choice("", Why.NOT_MEASURED),
    }
    assert [*choice_lines(choices)] == [
        "OpenVINO gets FP32: INT8 brings no gain, 1.02× (0.98–1.10) the speed of FP32",
        "ONNX Runtime gets INT8: INT8 is faster and not worse, 1.50× (1.40–1.60) the speed of FP32",
        "TensorRT gets FP16: INT8 was not measured",
    ]
    for why in Why:
        assert [*choice_lines({"ort": Choice("", why)})]
