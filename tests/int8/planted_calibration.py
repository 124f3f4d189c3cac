"""Plants faults into calibrations: into the data, the table of ranges, or the QDQ graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from deploytool.backends.session import Array
from deploytool.data import images
from deploytool.data.case_digests import case_digests
from deploytool.data.golden import Floor, Golden, Noise
from deploytool.precision.int8 import calibration
from deploytool.precision.int8.calibration import Method, Table
from deploytool.precision.int8.calibration_fault import CalibrationFault
from deploytool.precision.int8.value_range import ValueRange
from deploytool.spec import Preprocessing
from tests.int8 import nets, quantised

FORMS: Mapping[str, Mapping[str, bool]] = {
    "u8s8": {},
    "s8s8": {"symmetric": True},
    "fused": {"symmetric": True, "fused": True, "float_bias": True},
}


@dataclass(frozen=True)
class Calibration:
    """Everything that the checks see of one calibration."""

    net: str
    seed: int
    form: str
    source: onnx.ModelProto
    quantized: onnx.ModelProto
    table: Table
    method: Method
    cases: Array
    golden: Golden
    tests: tuple[str, ...] = ()


def golden(seed: int, count: int = 12) -> Golden:
    drawn = nets.pixels(count, 50_000 + seed)
    noise = Noise(Floor(0.0, 0.0), Floor(0.0, 0.0))
    inputs = {"input": images.normalise(drawn, nets.HOW)}
    return Golden(drawn, inputs, {}, {}, np.full(count, -1), nets.HOW, noise)


def quantize(source: onnx.ModelProto, ranges: Mapping[str, ValueRange], form: str) -> onnx.ModelProto:
    return quantised.quantize(source, ranges, **FORMS[form])


def symmetric(form: str) -> bool:
    return "symmetric" in FORMS[form]


def clean(net: str, seed: int, form: str, method: Method) -> Calibration:
    source = nets.export(nets.NETS[net], seed)
    cases = nets.pictures(32, 10_000 + seed)
    return calibrated(Calibration(net, seed, form, source, source, Table("", (), {}), method, cases, golden(seed)))


def calibrated(given: Calibration, judged: onnx.ModelProto | None = None) -> Calibration:
    """With a table and a QDQ graph of its cases; `judged` is another graph that the table is collected on."""
    source = judged or given.source
    table = calibration.collect(source, nets.activations(source), [{"input": given.cases}])
    ranges = table.ranges(given.method, symmetric=symmetric(given.form))
    return replace(given, table=table, quantized=quantize(given.source, ranges, given.form))


def zeros(given: Calibration) -> Iterator[Calibration]:
    yield calibrated(replace(given, cases=np.zeros_like(given.cases)))
    black = np.zeros((32, nets.SIDE, nets.SIDE, 3), np.uint8)
    yield calibrated(replace(given, cases=images.normalise(black, nets.HOW)))


def random_data(given: Calibration) -> Iterator[Calibration]:
    rng = np.random.default_rng(given.seed)
    yield calibrated(replace(given, cases=rng.normal(size=given.cases.shape).astype(np.float32)))
    noise = rng.integers(0, 256, (32, nets.SIDE, nets.SIDE, 3), np.uint8)
    yield calibrated(replace(given, cases=images.normalise(noise, nets.HOW)))


def wrong_normalisation(given: Calibration) -> Iterator[Calibration]:
    shown, plain = nets.pixels(32, 10_000 + given.seed), Preprocessing(mean=(0.0,), std=(1.0,))
    for how in (
        plain,
        replace(plain, scale=1.0),
        replace(plain, mean=(0.5,), std=(0.5,)),
        replace(nets.HOW, mean=nets.HOW.mean[::-1], std=nets.HOW.std[::-1]),
        replace(nets.HOW, scale=1 / 256),
    ):
        yield calibrated(replace(given, cases=images.normalise(shown, how)))


def stale_ranges(given: Calibration) -> Iterator[Calibration]:
    other = nets.export(nets.NETS[given.net], given.seed + 1)
    yield calibrated(given, other)
    changed = onnx.ModelProto()
    changed.CopyFrom(given.source)
    largest = max(changed.graph.initializer, key=lambda weight: len(weight.raw_data))
    values = numpy_helper.to_array(largest) * np.float32(1.5)
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))
    yield calibrated(given, changed)


def swapped_scales(given: Calibration) -> Iterator[Calibration]:
    """Two tensors whose scales differ by a factor of at least three, in the graph and in the table."""
    scales = _activation_scales(given)
    ordered = sorted(scales, key=lambda name: scales[name][1])
    small, large = ordered[0], ordered[-1]
    if scales[large][1] < 3 * scales[small][1]:
        return
    graph = onnx.ModelProto()
    graph.CopyFrom(given.quantized)
    nodes = {node.input[0]: node for node in graph.graph.node if node.op_type == "QuantizeLinear"}
    pairs = {nodes[small].input[1]: nodes[large].input[1], nodes[large].input[1]: nodes[small].input[1]}
    for node in graph.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.input[1] = pairs.get(node.input[1], node.input[1])
    yield replace(given, quantized=graph)
    histograms = dict(given.table.histograms)
    histograms[small], histograms[large] = histograms[large], histograms[small]
    table = replace(given.table, histograms=histograms)
    ranges = table.ranges(given.method, symmetric=symmetric(given.form))
    yield replace(given, table=table, quantized=quantize(given.source, ranges, given.form))


def _activation_scales(given: Calibration) -> dict[str, tuple[str, float]]:
    """The scale of each quantised activation that the table has: its weight and value; each weight once."""
    held = {weight.name: numpy_helper.to_array(weight) for weight in given.quantized.graph.initializer}
    found = {}
    for node in given.quantized.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in given.table.histograms:
            found[node.input[1]] = (node.input[0], float(held[node.input[1]]))
    return {tensor: (weight, value) for weight, (tensor, value) in found.items()}


def per_tensor_depthwise(given: Calibration) -> Iterator[Calibration]:
    ranges = given.table.ranges(given.method, symmetric=symmetric(given.form))
    options = {**FORMS[given.form], "per_channel": False}
    yield replace(given, quantized=quantised.quantize(given.source, ranges, **options))


def missing_residual_q(given: Calibration) -> Iterator[Calibration]:
    """An addition that reads a tensor before its Q and DQ: each quantised input in turn."""
    producers = {name: node for node in given.quantized.graph.node for name in node.output}
    for index, node in enumerate(given.quantized.graph.node):
        if node.op_type != "Add":
            continue
        for place, tensor in enumerate(node.input):
            if tensor not in producers or producers[tensor].op_type != "DequantizeLinear":
                continue
            graph = onnx.ModelProto()
            graph.CopyFrom(given.quantized)
            graph.graph.node[index].input[place] = producers[producers[tensor].input[0]].input[0]
            yield replace(given, quantized=quantised.without_unused(graph))


def double_q(given: Calibration) -> Iterator[Calibration]:
    """A second Q and DQ after the first of an activation; once with the same scale, once with another."""
    for factor in (1.0, 1.5):
        graph = onnx.ModelProto()
        graph.CopyFrom(given.quantized)
        produced = {node.output[0]: node for node in graph.graph.node}
        ends = [
            node
            for node in graph.graph.node
            if node.op_type == "DequantizeLinear" and produced.get(node.input[0], node).op_type == "QuantizeLinear"
        ]
        after = ends[len(ends) // 2]
        old = next(weight for weight in graph.graph.initializer if weight.name == after.input[1])
        scale = numpy_helper.from_array((numpy_helper.to_array(old) * factor).astype(np.float32), "another_scale")
        graph.graph.initializer.append(scale)
        end = after.output[0]
        after.output[0] = "once"
        quantize_again = helper.make_node(
            "QuantizeLinear", ["once", "another_scale", after.input[2]], ["again"], "again"
        )
        back = helper.make_node("DequantizeLinear", ["again", "another_scale", after.input[2]], [end], "back")
        graph.graph.node.extend([quantize_again, back])
        yield replace(given, quantized=graph)


def clipped_outlier(given: Calibration) -> Iterator[Calibration]:
    """A channel sixteen times the others, with a range that was taken without it."""
    source = onnx.ModelProto()
    source.CopyFrom(given.source)
    held = {weight.name: weight for weight in source.graph.initializer}
    first = next(node for node in source.graph.node if node.op_type == "Conv")
    tensor = next(node.output[0] for node in source.graph.node if first.output[0] in node.input)
    channel = int(np.argmax((values_of(source, tensor, given.cases) ** 2).mean((0, 2, 3))))
    for name in first.input[1:]:
        values = numpy_helper.to_array(held[name]).copy()
        values[channel] *= 16
        held[name].CopyFrom(numpy_helper.from_array(values, name))
    with_outlier = calibrated(replace(given, source=source))
    largest = np.delete(values_of(source, tensor, given.cases), channel, axis=1).max()
    ranges = dict(with_outlier.table.ranges(given.method, symmetric=symmetric(given.form)))
    low = -float(largest) if symmetric(given.form) else 0.0
    ranges[tensor] = ValueRange(low, float(largest))
    yield replace(with_outlier, quantized=quantize(source, ranges, given.form))


def values_of(graph: onnx.ModelProto, tensor: str, inputs: Array) -> Array:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    del copy.graph.output[:]
    copy.graph.output.append(onnx.ValueInfoProto(name=tensor))
    return nets.run(copy, inputs)


def judged_cases(given: Calibration) -> Iterator[Calibration]:
    """Two golden pictures among those of the calibration, and a test picture."""
    mixed = np.concatenate([given.cases[:-2], given.golden.inputs["input"][:2]])
    yield calibrated(replace(given, cases=mixed))
    yield replace(given, tests=case_digests({"input": given.cases})[3:4])


PLANTED: Mapping[CalibrationFault, Callable[[Calibration], Iterator[Calibration]]] = {
    CalibrationFault.TEST_CASES: judged_cases,
    CalibrationFault.ZEROS: zeros,
    CalibrationFault.RANDOM_DATA: random_data,
    CalibrationFault.WRONG_NORMALISATION: wrong_normalisation,
    CalibrationFault.STALE_RANGES: stale_ranges,
    CalibrationFault.SWAPPED_SCALES: swapped_scales,
    CalibrationFault.CLIPPED_OUTLIER: clipped_outlier,
    CalibrationFault.PER_TENSOR_DEPTHWISE: per_tensor_depthwise,
    CalibrationFault.MISSING_RESIDUAL_Q: missing_residual_q,
    CalibrationFault.DOUBLE_Q: double_q,
}
