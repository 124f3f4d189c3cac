from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from deploytool.backends.session import Array
from deploytool.precision.int8 import calibration, equalisation
from deploytool.precision.int8.calibration import Method
from tests.int8 import nets, quantised


def grouped() -> nn.Module:
    layers = [*nets.conv(3, 12), nn.ReLU(), nn.MaxPool2d(2), *nets.conv(12, 24, 1, groups=3), nn.LeakyReLU()]
    return nn.Sequential(*layers, *nets.conv(24, 8), nn.ReLU(), *nets.head(8))


def clipped() -> nn.Module:
    return nn.Sequential(*nets.conv(3, 8), nn.ReLU6(), *nets.conv(8, 8, groups=8), nn.Sigmoid(), *nets.head(8))


def shared() -> nn.Module:
    return nn.Sequential(nets.Residual(3, [*nets.conv(3, 3)], nn.ReLU()), *nets.head(3))


def unbalanced(make: Callable[[], nn.Module], seed: int) -> onnx.ModelProto:
    """With channels of the first convolution up to 100 times smaller, and a depthwise one that makes up for it."""
    graph = nets.export(make, seed)
    held = {weight.name: weight for weight in graph.graph.initializer}
    first = next(node for node in graph.graph.node if node.op_type == "Conv")
    rng = np.random.default_rng(seed)
    factors = 10.0 ** rng.uniform(-2, 0, held[first.input[1]].dims[0])
    changes = dict.fromkeys(first.input[1:], factors)
    for second in [node for node in graph.graph.node if node.op_type == "Conv"][1:2]:
        if held[second.input[1]].dims[1] == 1:
            changes[second.input[1]] = 1 / factors
    for name, scales in changes.items():
        values = numpy_helper.to_array(held[name])
        changed = (values * scales.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)
        held[name].CopyFrom(numpy_helper.from_array(changed, name))
    return graph


@cache
def case(make: Callable[[], nn.Module], seed: int = 0) -> tuple[onnx.ModelProto, onnx.ModelProto, tuple[str, ...]]:
    graph = unbalanced(make, seed)
    maxima = equalisation.channel_maxima(graph, equalisation.pairs(graph), [{"input": nets.pictures(24, 1)}])
    return graph, *equalisation.equalise(graph, maxima)


def channel_ratio(graph: onnx.ModelProto) -> float:
    """The largest over the smallest maximum of the channels after the first convolution."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    first = next(node for node in copy.graph.node if node.op_type == "Conv")
    del copy.graph.output[:]
    copy.graph.output.append(onnx.ValueInfoProto(name=first.output[0]))
    largest = np.abs(nets.run(copy, nets.pictures(24, 1))).max((0, 2, 3))
    return float(largest.max() / largest.min())


@pytest.mark.parametrize("make", [nets.separable, nets.residual, grouped])
def test_the_outputs_have_the_same_bits(make: Callable[[], nn.Module]) -> None:
    graph, equal, names = case(make)
    assert names
    onnx.checker.check_model(equal, full_check=True)
    inputs = nets.pictures(16, 2)
    assert nets.run(equal, inputs).tobytes() == nets.run(graph, inputs).tobytes()


def test_channels_before_a_depthwise_convolution_become_alike() -> None:
    graph, equal, _ = case(nets.separable)
    assert channel_ratio(graph) > 30
    assert channel_ratio(equal) < max(2.01, channel_ratio(graph) / 15)


def test_weak_channels_are_amplified_at_most_sixteen_times_and_none_becomes_the_largest() -> None:
    graph, equal, names = case(nets.separable)
    before, after = ({node.name: node for node in each.graph.node} for each in (graph, equal))
    held = [
        {weight.name: numpy_helper.to_array(weight) for weight in each.graph.initializer} for each in (graph, equal)
    ]
    old, new = held[0][before[names[0]].input[1]], held[1][after[names[0]].input[1]]
    factors = (new / np.where(old == 0, 1, old)).reshape(len(old), -1).max(1)
    assert set(factors) <= {1.0, 2.0, 4.0, 8.0, 16.0}
    assert (factors > 1).any()
    assert (factors == 1).any()


def sqnr(graph: onnx.ModelProto, wanted: Array, inputs: Array) -> float:
    table = calibration.collect(graph, nets.activations(graph), [{"input": nets.pictures(24, 1)}])
    made = quantised.quantize(graph, table.ranges(Method.MIN_MAX, symmetric=False))
    error = nets.run(made, inputs).astype(np.float64) - wanted
    return float(10 * np.log10((wanted.astype(np.float64) ** 2).sum() / (error**2).sum()))


def test_quantised_outputs_are_closer_afterwards() -> None:
    graph, equal, _ = case(nets.separable)
    inputs = nets.pictures(16, 2)
    wanted = nets.run(graph, inputs)
    assert sqnr(equal, wanted, inputs) > sqnr(graph, wanted, inputs) + 1


@pytest.mark.parametrize("make", [clipped, shared])
def test_what_does_not_commute_or_has_other_readers_is_left(make: Callable[[], nn.Module]) -> None:
    graph, equal, names = case(make)
    assert equalisation.pairs(graph) == ()
    assert names == ()
    assert equal is graph


def test_a_dead_channel_stays_as_it_is() -> None:
    torch.manual_seed(0)
    graph = nets.export(nets.separable, 4)
    maxima = {name: np.array([0.0, *[1.0] * 63], np.float32)[:8] for name in equalisation.pairs(graph)[:1]}
    equal, names = equalisation.equalise(graph, maxima)
    assert (equal is graph, names) == (True, ())


def test_factors_that_would_make_subnormals_are_not_used() -> None:
    graph = unbalanced(nets.separable, 0)
    depthwise = [node for node in graph.graph.node if node.op_type == "Conv"][1]
    held = {weight.name: weight for weight in graph.graph.initializer}
    values = numpy_helper.to_array(held[depthwise.input[1]]).copy()
    values[:] = 2.0**-125
    held[depthwise.input[1]].CopyFrom(numpy_helper.from_array(values, depthwise.input[1]))
    tensor = equalisation.pairs(graph)[0]
    maxima = equalisation.channel_maxima(graph, (tensor,), [{"input": nets.pictures(4, 1)}])
    assert equalisation.equalise(graph, maxima)[1] == ()
