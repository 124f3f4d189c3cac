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
from deploytool.faults import kinds, run
from deploytool.faults.kinds import FAMILIES, Fault
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
    return run.ready(subject).graph


def planted(graph: FaultGraph, family: str, count: int = COUNT, seed: int = 0) -> list[Fault]:
    return list(islice(kinds.load(family).faults(graph, np.random.default_rng(seed)), count))


def answers(graph: FaultGraph, inputs: Arrays) -> Array:
    with onnxruntime.start(graph.model.SerializeToString()) as session:
        return next(iter(session(**inputs).values()))


def spoiled(graph: FaultGraph, fault: Fault) -> FaultGraph:
    copy = graph.copy()
    fault.plant(copy)
    return copy


def test_every_family_is_in_the_list() -> None:
    assert {path.stem for path in (ROOT / "deploytool" / "faults").glob("[a-z]*.py")} - {"graph"} == set(FAMILIES)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "ceil_mode"])
def test_a_fault_changes_what_is_computed_unless_it_is_proved_not_to(
    subject: Subject, sound: FaultGraph, family: str
) -> None:
    found = planted(sound, family)
    assert found, "tiny has a place for it"
    exact, before = answers(sound, subject.fresh), sound.model.SerializeToString()
    for fault in found:
        copy = spoiled(sound, fault)
        changed = np.abs(answers(copy, subject.fresh) - exact).max()
        if fault.same:
            assert changed <= 1e-6 * np.abs(exact).max(), fault
        else:
            assert copy.model.SerializeToString() != before, fault
    assert sound.model.SerializeToString() == before, "the sound graph stays sound"
    if family != "activation_swapped":  # nothing in tiny gets beyond six
        assert any(np.abs(answers(spoiled(sound, fault), subject.fresh) - exact).max() > 0 for fault in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_plants_the_same_faults(sound: FaultGraph, family: str) -> None:
    told = [[(fault.place, fault.size) for fault in planted(sound, family, seed=seed)] for seed in (3, 3)]
    assert told[0] == told[1]


def test_fp16_weights_stay_fp16_numbers(sound: FaultGraph) -> None:
    for family in ("weight_scaled", "bias_dropped", "channel_zeroed", "norm_eps", "stale_weights"):
        for fault in planted(sound, family):
            copy = spoiled(sound, fault)
            for name in copy.weights():
                values = copy.weight(name)
                np.testing.assert_array_equal(values, values.astype(np.float16).astype(values.dtype))


def test_shifted_classes_are_the_answers_shifted(subject: Subject, sound: FaultGraph) -> None:
    exact = answers(sound, subject.fresh)
    for fault in planted(sound, "classes_shifted"):
        assert fault.size is not None
        np.testing.assert_array_equal(
            answers(spoiled(sound, fault), subject.fresh), np.roll(exact, int(fault.size), axis=1)
        )


def test_swapped_colours_are_the_answers_to_swapped_colours(subject: Subject, sound: FaultGraph) -> None:
    (name,) = subject.fresh
    for fault in planted(sound, "colours_swapped"):
        order = [int(digit) for digit in fault.place if digit.isdigit()]
        swapped = {name: np.ascontiguousarray(subject.fresh[name][:, order])}
        expected = answers(sound, swapped)
        np.testing.assert_allclose(answers(spoiled(sound, fault), subject.fresh), expected, atol=1e-6)


def test_another_normalisation_is_what_other_preprocessing_gives(subject: Subject, sound: FaultGraph) -> None:
    (name,) = subject.fresh
    raw = next(fault for fault in planted(sound, "normalisation") if "mean [0.0, 0.0, 0.0]" in fault.place)
    plain = Preprocessing(resize=32, crop=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    expected = answers(sound, {name: images.normalise(subject.pixels, plain)})
    np.testing.assert_allclose(answers(spoiled(sound, raw), subject.fresh), expected, rtol=1e-3, atol=1e-4)


def test_another_epsilon_is_what_the_model_with_it_gives(finished: Path, subject: Subject, sound: FaultGraph) -> None:
    """Held against PyTorch: one batch norm of the source gets the epsilon that the fault was planted with."""
    import torch
    from torch import nn

    from deploytool.backends import eager

    found = [fault for fault in planted(sound, "norm_eps", count=20) if fault.size == 0.1]
    assert len(found) == 3, "each batch norm of tiny was found in its convolution"
    (image,) = (torch.from_numpy(array) for array in subject.fresh.values())
    expected = []
    for part in ("stem", "grouped", "depthwise"):
        module = eager.load_module(finished / "load" / "weights.safetensors")
        norm = next(each for each in getattr(module, part) if isinstance(each, nn.BatchNorm2d))
        norm.eps = 0.1
        with torch.inference_mode():
            expected.append(module(image).numpy())
    for fault in found:
        got = answers(spoiled(sound, fault), subject.fresh)
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
def test_a_pool_whose_windows_fit_rounds_to_the_same_size_either_way(side: int, same: bool) -> None:
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2])
    graph = model([pool], {}, (1, 3, side, side))
    (fault,) = planted(graph, "ceil_mode")
    assert bool(fault.same) is same
    x = {"x": np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32)}
    assert (answers(spoiled(graph, fault), x).shape == answers(graph, x).shape) is same


CONV = helper.make_node("Conv", ["r", "w", "b"], ["c"])
RELU, LAST = helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Relu", ["c"], ["y"])


@pytest.mark.parametrize(
    ("weight", "bias", "dead"),
    [(-1.0, -0.1, True), (-1.0, 0.1, False), (1.0, -0.1, False), (0.0, 0.0, True)],
)
def test_a_channel_that_never_gets_above_zero_is_proved_dead(weight: float, bias: float, dead: bool) -> None:
    weights = {"w": np.full((1, 3, 1, 1), weight, np.float32), "b": np.full(1, bias, np.float32)}
    graph = model([RELU, CONV, LAST], weights, (1, 3, 4, 4))
    assert all(bool(fault.same) is dead for fault in planted(graph, "channel_zeroed"))


def test_a_rectifier_behind_a_rectifier_can_be_dropped() -> None:
    twice = helper.make_node("Relu", ["r"], ["y"])
    found = {fault.place: fault.same for fault in planted(model([RELU, twice], {}, (1, 3, 4, 4)), "activation_dropped")}
    assert found["r"] is None
    assert found["y"] is not None


@pytest.mark.parametrize("largest", [3.0, 2e4])
def test_clipping_at_ten_thousand_matters_only_beyond_it(largest: float) -> None:
    graph = model(
        [RELU, CONV, LAST],
        {"w": np.full((1, 3, 1, 1), largest, np.float32), "b": np.ones(1, np.float32)},
        (1, 3, 4, 4),
    )
    first = planted(graph, "weights_clipped")[0]
    assert (first.same is None) is (largest > 1e4)


def test_silu_becomes_relu() -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    graph = model(nodes, {}, (1, 3, 4, 4))
    (fault,) = planted(graph, "activation_swapped")
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(answers(spoiled(graph, fault), {"x": x}), np.maximum(x, 0))
    (dropped,) = planted(graph, "activation_dropped")
    np.testing.assert_array_equal(answers(spoiled(graph, dropped), {"x": x}), x)
