"""What proves an FP8 graph: its answers as quantised, and a tolerance from the steps that rounding to FP16 decides."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from deploytool.backends import fp8_emulation
from deploytool.data.golden import Golden
from deploytool.parity import fp8_answers, metrics
from deploytool.precision.int8 import calibration, quantize
from deploytool.precision.int8.calibration import Method
from deploytool.results.int8_forms import Form
from deploytool.results.output_parts import OutputPart
from tests.int8 import fp8_bundles, fp8_networks, planted_bundles, quantized
from tests.int8.fp8_kernels import Fault, Kernels, Planted, Rounded, Sums
from tests.parity.test_int8_answers import sample

FORM = Form.E4M3


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    source = quantized.network(3)
    table = calibration.collect(source, quantize.activations(source, FORM), [{"image": quantized.pictures(1000, 16)}])
    return quantize.quantize(source, table.ranges(Method.MIN_MAX, symmetric=True), FORM)


@pytest.fixture(scope="module")
def cases(graph: onnx.ModelProto) -> Golden:
    return sample({"image": quantized.pictures(1, 8)}, [OutputPart(graph.graph.output[0].name)])


def test_a_value_that_fp16_rounds_otherwise_is_within_the_limits_and_faults_are_not(
    graph: onnx.ModelProto, cases: Golden
) -> None:
    answers = fp8_answers.record(graph, cases.inputs)
    limits = fp8_answers.limits(graph, answers, cases)
    with fp8_emulation.start(graph.SerializeToString()) as session:
        emulated = session(**cases.inputs)
    for name, array in answers.items():
        np.testing.assert_array_equal(emulated[name], array)
    for seed in (10, 11):  # not those of the limits
        moved = fp8_answers.record(fp8_answers._moved(graph, seed), cases.inputs)
        assert not metrics.check(moved, answers, "itself", limits).broken
    for fault in ("wrong scale", "stale scale"):
        planted = onnx.load_from_string(planted_bundles.planted(graph.SerializeToString(), fault, 2))
        assert metrics.check(fp8_answers.record(planted, cases.inputs), answers, "itself", limits).broken, fault


def test_every_activation_is_moved_by_less_than_a_step_of_fp16(graph: onnx.ModelProto) -> None:
    kinds = [[node.op_type for node in model.graph.node] for model in (graph, fp8_answers._moved(graph, 0))]
    quantised = kinds[0].count("QuantizeLinear")
    assert kinds[1].count("RandomUniformLike") == quantised > 1
    factors = [node for node in fp8_answers._moved(graph, 0).graph.node if node.op_type == "RandomUniformLike"]
    settings = [{each.name: onnx.helper.get_attribute_value(each) for each in node.attribute} for node in factors]
    assert {(each["low"], each["high"]) for each in settings} == {(1 - 2.0**-11, 1 + 2.0**-11)}
    assert len({each["seed"] for each in settings}) == quantised, "each has its own"


@pytest.mark.parametrize("kind", ["gated", "residual"])
def test_kernels_of_a_gpu_that_move_rare_values_hold_and_a_faulty_one_does_not(kind: str) -> None:
    """With 24 runs of a case, the noise of these networks had none of the steps that sound kernels make."""
    graph, images = fp8_bundles.graph_of(fp8_networks.KINDS[kind](102)), quantized.pictures(102, 8, size=16)
    name = graph.graph.output[0].name
    cases = sample({"image": images}, [OutputPart(name)])
    answers = fp8_answers.record(graph, cases.inputs)
    limits = fp8_answers.limits(graph, answers, cases)
    for sums in Sums:
        for rounded in Rounded:
            got = Kernels(graph, sums, rounded)(image=images)
            assert not metrics.check({name: got}, answers, "itself", limits).broken, (sums, rounded)
    for fault in (Fault.SCALE, Fault.ROLLED, Fault.SWAPPED):
        got = Kernels(graph, Sums.FP32, Rounded.KERNELS, Planted(fault, 1))(image=images)
        assert metrics.check({name: got}, answers, "itself", limits).broken, fault


def test_the_kernels_without_differences_compute_what_the_emulation_does() -> None:
    graph, images = fp8_bundles.graph_of(fp8_networks.residual(7)), quantized.pictures(7, 8, size=16)
    (expected,) = fp8_answers.record(graph, {"image": images}).values()
    got = Kernels(graph, Sums.FP32, Rounded.ALL)(image=images)
    assert np.median(np.abs(got - expected)) < 1e-3 * np.abs(expected).max()
