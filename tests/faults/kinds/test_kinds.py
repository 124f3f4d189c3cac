from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploytool.backends import onnxruntime
from deploytool.backends.session import Array
from deploytool.data import images
from deploytool.data.golden import Arrays
from deploytool.faults import run
from deploytool.faults.kinds.families import FAMILIES, Fault, load
from deploytool.faults.kinds.graph import FaultGraph
from deploytool.faults.run import Subject
from deploytool.spec import Preprocessing
from tests.conftest import ROOT, TINY

COUNT = 6


@pytest.fixture(scope="module")
def subject(finished: Path) -> Subject:
    files = [finished / file for file in ("load/weights.safetensors", "golden/golden.npz")]
    graphs = [finished / stage / "model.onnx" for stage in ("rewrite", "fp16")]
    return run.subject(*files, *graphs, half=True, wanted={}, fresh=16)


@pytest.fixture(scope="module")
def sound(subject: Subject) -> FaultGraph:
    return run.prepare(subject).graph


def faults_of(graph: FaultGraph, family: str, count: int = COUNT, seed: int = 0) -> list[Fault]:
    return list(islice(load(family).faults(graph, np.random.default_rng(seed)), count))


def answers(graph: FaultGraph, inputs: Arrays) -> Array:
    with onnxruntime.start(graph.model.SerializeToString()) as session:
        return next(iter(session(**inputs).values()))


def with_fault(graph: FaultGraph, fault: Fault) -> FaultGraph:
    copy = graph.copy()
    fault.plant(copy)
    return copy


def test_every_family_module_is_listed() -> None:
    modules = {path.stem for path in (ROOT / "deploytool" / "faults" / "kinds").glob("[a-z]*.py")}
    assert modules - {"families", "graph", "attention", "boxes"} == set(FAMILIES)


OF_TRANSFORMERS_AND_DETECTORS = FAMILIES[FAMILIES.index("mask_inverted") :]
OF_ALL = FAMILIES[: FAMILIES.index("mask_inverted")]


@pytest.mark.parametrize("family", OF_TRANSFORMERS_AND_DETECTORS)
def test_a_family_does_nothing_where_its_pattern_is_absent(sound: FaultGraph, family: str) -> None:
    assert faults_of(sound, family) == []


@pytest.mark.parametrize("family", [name for name in OF_ALL if name != "ceil_mode"])
def test_a_fault_changes_the_answers_unless_it_states_why_not(subject: Subject, sound: FaultGraph, family: str) -> None:
    found = faults_of(sound, family)
    assert found, "the family applies to the model"
    exact, before = answers(sound, subject.fresh), sound.model.SerializeToString()
    for fault in found:
        copy = with_fault(sound, fault)
        changed = np.abs(answers(copy, subject.fresh) - exact).max()
        if fault.same:
            assert changed <= 1e-6 * np.abs(exact).max(), fault
        else:
            assert copy.model.SerializeToString() != before, fault
    assert sound.model.SerializeToString() == before, "planting changes a copy only"
    if family != "activation_swapped":  # no activation of the model exceeds six
        assert any(np.abs(answers(with_fault(sound, fault), subject.fresh) - exact).max() > 0 for fault in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_plants_the_same_faults(sound: FaultGraph, family: str) -> None:
    faults = [[(fault.place, fault.size) for fault in faults_of(sound, family, seed=seed)] for seed in (3, 3)]
    assert faults[0] == faults[1]


def test_faulty_weights_of_an_fp16_graph_are_fp16_numbers(sound: FaultGraph) -> None:
    for family in ("weight_scaled", "bias_dropped", "channel_zeroed", "norm_eps", "stale_weights"):
        for fault in faults_of(sound, family):
            copy = with_fault(sound, fault)
            for name in copy.weights():
                values = copy.weight(name)
                np.testing.assert_array_equal(values, values.astype(np.float16).astype(values.dtype))


def test_shifted_classes_shift_the_answers(subject: Subject, sound: FaultGraph) -> None:
    exact = answers(sound, subject.fresh)
    for fault in faults_of(sound, "classes_shifted"):
        assert fault.size is not None
        np.testing.assert_array_equal(
            answers(with_fault(sound, fault), subject.fresh), np.roll(exact, int(fault.size), axis=1)
        )


def test_swapped_colours_give_the_answers_to_swapped_images(subject: Subject, sound: FaultGraph) -> None:
    (name,) = subject.fresh
    for fault in faults_of(sound, "colours_swapped"):
        order = [int(digit) for digit in fault.place if digit.isdigit()]
        swapped = {name: np.ascontiguousarray(subject.fresh[name][:, order])}
        expected = answers(sound, swapped)
        np.testing.assert_allclose(answers(with_fault(sound, fault), subject.fresh), expected, atol=1e-6)


def test_another_normalisation_gives_the_answers_to_that_preprocessing(subject: Subject, sound: FaultGraph) -> None:
    (name,) = subject.fresh
    raw = next(fault for fault in faults_of(sound, "normalisation") if "mean [0.0, 0.0, 0.0]" in fault.place)
    plain = Preprocessing(resize=32, crop=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    expected = answers(sound, {name: images.normalise(subject.pixels, plain)})
    np.testing.assert_allclose(answers(with_fault(sound, raw), subject.fresh), expected, rtol=1e-3, atol=1e-4)


def test_another_epsilon_gives_the_answers_of_the_model_with_it(
    finished: Path, subject: Subject, sound: FaultGraph
) -> None:
    """The reference is PyTorch, with the fault's epsilon in one batch norm of the source."""
    import torch
    from torch import nn

    from deploytool.backends import eager

    found = [fault for fault in faults_of(sound, "norm_eps", count=20) if fault.size == 0.1]
    assert len(found) == 3, "each batch norm is found in its convolution"
    (image,) = (torch.from_numpy(array) for array in subject.fresh.values())
    expected = []
    for part in ("stem", "grouped", "depthwise"):
        module = eager.load_module(finished / "load" / "weights.safetensors")
        norm = next(layer for layer in getattr(module, part) if isinstance(layer, nn.BatchNorm2d))
        norm.eps = 0.1
        with torch.inference_mode():
            expected.append(module(image).numpy())
    for fault in found:
        got = answers(with_fault(sound, fault), subject.fresh)
        nearest = min(float(np.abs(got - other).max()) for other in expected)
        assert nearest < 2e-3 * np.abs(expected[0]).max(), fault


def model(nodes: list[onnx.NodeProto], weights: dict[str, Array], sides: tuple[int, ...]) -> FaultGraph:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(sides)) for name in ("x", "y")]
    ends[1].type.tensor_type.shape.Clear()
    held = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    made = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], held),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    return FaultGraph(made, False, {}, TINY.preprocessing)


@pytest.mark.parametrize(("side", "same"), [(9, True), (8, False)])
def test_ceil_mode_has_no_effect_if_the_windows_fit(side: int, same: bool) -> None:
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2])
    graph = model([pool], {}, (1, 3, side, side))
    (fault,) = faults_of(graph, "ceil_mode")
    assert bool(fault.same) is same
    x = {"x": np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32)}
    assert (answers(with_fault(graph, fault), x).shape == answers(graph, x).shape) is same


CONV = helper.make_node("Conv", ["r", "w", "b"], ["c"])
RELU, LAST = helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Relu", ["c"], ["y"])


@pytest.mark.parametrize(
    ("weight", "bias", "dead"),
    [(-1.0, -0.1, True), (-1.0, 0.1, False), (1.0, -0.1, False), (0.0, 0.0, True)],
)
def test_a_channel_that_is_never_positive_before_a_relu_has_no_effect(weight: float, bias: float, dead: bool) -> None:
    weights = {"w": np.full((1, 3, 1, 1), weight, np.float32), "b": np.full(1, bias, np.float32)}
    graph = model([RELU, CONV, LAST], weights, (1, 3, 4, 4))
    assert all(bool(fault.same) is dead for fault in faults_of(graph, "channel_zeroed"))


def test_dropping_a_relu_after_a_relu_has_no_effect() -> None:
    twice = helper.make_node("Relu", ["r"], ["y"])
    found = {
        fault.place: fault.same for fault in faults_of(model([RELU, twice], {}, (1, 3, 4, 4)), "activation_dropped")
    }
    assert found["r"] is None
    assert found["y"] is not None


@pytest.mark.parametrize("largest", [3.0, 2e4])
def test_clipping_has_an_effect_only_on_larger_weights(largest: float) -> None:
    graph = model(
        [RELU, CONV, LAST],
        {"w": np.full((1, 3, 1, 1), largest, np.float32), "b": np.ones(1, np.float32)},
        (1, 3, 4, 4),
    )
    first = faults_of(graph, "weights_clipped")[0]
    assert (first.same is None) is (largest > 1e4)


def test_silu_is_replaced_by_relu() -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    graph = model(nodes, {}, (1, 3, 4, 4))
    (fault,) = faults_of(graph, "activation_swapped")
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(answers(with_fault(graph, fault), {"x": x}), np.maximum(x, 0))
    (dropped,) = faults_of(graph, "activation_dropped")
    np.testing.assert_array_equal(answers(with_fault(graph, dropped), {"x": x}), x)
