"""What quantisation does to each tensor: values clipped, and signal-to-quantisation-noise ratio against the source."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto

from deploytool.backends import e4m3, int8_emulation, onnxruntime
from deploytool.data.golden import Arrays
from deploytool.errors import BadInput
from deploytool.results.quantization import QuantizedTensor, TensorKind
from deploytool.rewrites.graph import weights
from deploytool.rewrites.graph.editable import EditableGraph, attributes

Array = npt.NDArray[Any]

_LISTED = 10  # noisiest tensors
_CHUNK = 4  # cases whose tensors are in memory at once
_RECTIFIERS = ("Relu", "Clip")  # a quantiser may leave them to the ends of the integers


Emulate = Callable[[onnx.ModelProto], onnx.ModelProto]


def noisiest(
    source: onnx.ModelProto, quantized: onnx.ModelProto, inputs: Arrays, emulate: Emulate = int8_emulation.emulate
) -> tuple[QuantizedTensor, ...]:
    """The ten tensors that lose most by being quantised; none without a signal, which JSON could not hold."""
    measured = measure(source, quantized, inputs, emulate)
    return tuple(each for each in measured if each.noise_db is not None and math.isfinite(each.noise_db))[:_LISTED]


def measure(
    source: onnx.ModelProto, quantized: onnx.ModelProto, inputs: Arrays, emulate: Emulate = int8_emulation.emulate
) -> tuple[QuantizedTensor, ...]:
    """Every tensor that `quantized` quantises and `source` has, those with the most noise first.

    `emulate` makes the graph exact (`backends/int8_emulation.py`, `backends/fp8_emulation.py`). A tensor is found in
    the source by its name, or else by the node of the same name or result that reads it. Raises BadInput if the graph
    quantises none of them.
    """
    originals = EditableGraph(source)
    pairs = tuple(_pairs(originals, EditableGraph(quantized)))
    if not pairs:
        raise BadInput("the quantized graph has no tensor of its source", "give the graph that it was quantized from")
    sums = [_Sums() for _ in pairs]
    for chunk in _chunks(inputs):
        expected = chunk | _tensors(source, {pair.source for pair in pairs} - chunk.keys(), chunk, originals)
        got = _tensors(emulate(_with_outputs(quantized, pairs)), {pair.result for pair in pairs}, chunk)
        for pair, each in zip(pairs, sums, strict=True):
            each.add(expected[pair.source], got[pair.result], pair)
    measured = (each.result(pair) for pair, each in zip(pairs, sums, strict=True))
    return tuple(sorted(measured, key=lambda each: math.inf if each.noise_db is None else each.noise_db))


@dataclass(frozen=True)
class _Pair:
    """A tensor of the source, the tensor that stands for it in the quantised graph, and how it is quantised."""

    source: str
    result: str
    node: str
    operator: str
    kind: TensorKind
    scale: Array
    zero: Array
    axis: int

    def codes(self, values: Array) -> Array:
        """The codes of real values before they are rounded to those of their type."""
        scale, zero = (self._along(each, values.ndim).astype(np.float64) for each in (self.scale, self.zero))
        codes: Array = values / scale + zero
        return codes

    def reals(self, codes: Array) -> Array:
        """What codes stand for, in FP64."""
        scale, zero = (self._along(each, codes.ndim).astype(np.float64) for each in (self.scale, self.zero))
        reals: Array = (codes - zero) * scale
        return reals

    def _along(self, parameter: Array, rank: int) -> Array:
        shape = [-1 if dim == self.axis % rank else 1 for dim in range(rank)] if parameter.size > 1 else ()
        return parameter.reshape(shape)


class _Sums:
    """The powers of a tensor and its errors, added up over the cases."""

    def __init__(self) -> None:
        self._values = self._clipped = 0
        self._signal = self._own = self._noise = 0.0

    def add(self, expected: Array, got: Array, pair: _Pair) -> None:
        values = expected.astype(np.float64)
        codes = pair.codes(values)
        least, most, step = _ends(pair.zero.dtype)
        self._values += values.size
        # the zero point is rounded: the ends of a range that fits may lie beyond those of the integers by a step
        self._clipped += int(((codes < least - step) | (codes > most + step)).sum())
        self._signal += float((values**2).sum())
        self._own += float(((pair.reals(_nearest(codes, pair.zero.dtype)) - values) ** 2).sum())
        self._noise += float(((got.astype(np.float64) - values) ** 2).sum())

    def result(self, pair: _Pair) -> QuantizedTensor:
        clipped = self._clipped / max(1, self._values)
        own, noise = (_decibels(self._signal, error) for error in (self._own, self._noise))
        return QuantizedTensor(pair.source, pair.node, pair.operator, pair.kind, clipped, own, noise)


def _ends(dtype: np.dtype[Any]) -> tuple[float, float, float]:
    """The least and the largest number of a type, and the step between its largest."""
    if dtype == e4m3.DTYPE:
        return -e4m3.LARGEST, e4m3.LARGEST, e4m3.STEP
    ends = np.iinfo(dtype)
    return ends.min, ends.max, 1.0


def _nearest(codes: Array, dtype: np.dtype[Any]) -> Array:
    """The nearest numbers of a type, in FP64."""
    if dtype == e4m3.DTYPE:
        return e4m3.nearest(codes).astype(np.float64)
    least, most, _ = _ends(dtype)
    rounded: Array = np.rint(codes).clip(least, most)
    return rounded


def _decibels(signal: float, error: float) -> float | None:
    """The ratio of two powers in dB; None without an error, and -∞ without a signal."""
    if not error:
        return None
    return 10 * math.log10(signal / error) if signal else -math.inf


def _pairs(source: EditableGraph, quantized: EditableGraph) -> Iterator[_Pair]:
    """The dequantised tensors of 8 and 16 bits whose parameters are constant and that the source has."""
    names = {node.name: node for node in source.nodes if node.name} | {node.output[0]: node for node in source.nodes}
    known = set(names) | {name for node in source.nodes for name in (*node.input, *node.output)}
    for node in quantized.nodes:
        scale, zero = _parameters(quantized, node)
        if scale is None or zero is None or zero.dtype.itemsize > 2:
            continue
        if zero.dtype.kind not in "iu" and zero.dtype != e4m3.DTYPE:
            continue
        name = _original(source, quantized, node, names, known)
        if name is None:
            continue
        is_weight = source.constant(name) is not None
        owner = next(iter(source.consumers(name)), None) if is_weight else source.producer(name)
        kind = TensorKind.WEIGHT if is_weight else TensorKind.ACTIVATION
        told = (owner.name or owner.output[0], owner.op_type) if owner is not None else ("", "")
        yield _Pair(name, node.output[0], *told, kind, scale, zero, int(attributes(node).get("axis", 1)))


def _parameters(graph: EditableGraph, node: NodeProto) -> tuple[Array | None, Array | None]:
    """The scale and zero point of a DequantizeLinear node; None for another node, and where they are not constant."""
    if node.op_type != "DequantizeLinear" or attributes(node).get("block_size", 0):
        return None, None
    zero = graph.constant(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)
    return graph.constant(node.input[1]), zero


def _original(
    source: EditableGraph, quantized: EditableGraph, node: NodeProto, names: Mapping[str, NodeProto], known: set[str]
) -> str | None:
    """The tensor of the source that a DequantizeLinear node stands for; None if it has none."""
    result, quantizer = str(node.output[0]), quantized.producer(node.input[0])
    if source.producer(result) is not None:  # an output of the graph, whose producer got another name
        return result
    if quantizer is not None and quantizer.op_type == "QuantizeLinear" and quantizer.input[0] in known:
        name = str(quantizer.input[0])
        after = source.only_consumer(name)
        absorbed = after is not None and after.op_type in _RECTIFIERS and quantized.producer(after.output[0]) is None
        return str(after.output[0]) if absorbed and after is not None else name
    for reader in quantized.consumers(result):
        original = names.get(reader.name) or names.get(reader.output[0])
        place = list(reader.input).index(result)
        if original is not None and original.op_type == reader.op_type and place < len(original.input):
            return str(original.input[place])
    return None


def _chunks(inputs: Arrays) -> Iterator[dict[str, Array]]:
    for start in range(0, len(next(iter(inputs.values()))), _CHUNK):
        yield {name: array[start : start + _CHUNK] for name, array in inputs.items()}


def _with_outputs(model: onnx.ModelProto, pairs: Sequence[_Pair]) -> onnx.ModelProto:
    """A copy of the quantised graph with the tensors of all pairs as outputs."""
    return _extended(model, {pair.result for pair in pairs})


def _extended(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """A copy of a graph with these tensors as further outputs."""
    copy = weights.without_contents(model)
    copy.graph.node.extend(model.graph.node)
    copy.graph.initializer.extend(model.graph.initializer)
    present = {output.name for output in model.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(set(names) - present))
    return copy


def _tensors(
    model: onnx.ModelProto, names: Collection[str], inputs: Arrays, constants: EditableGraph | None = None
) -> dict[str, Array]:
    """The values of these tensors; those that are weights of the graph `constants` are taken from there."""
    found = {} if constants is None else {name: constants.constant(name) for name in names}
    values = {name: array for name, array in found.items() if array is not None}
    parts = weights.session_parts(_extended(model, set(names) - values.keys()))
    folder, arrays = parts.folder, parts.arrays
    with onnxruntime.start(parts.message, optimise=False, batch_first=False, weights=arrays, folder=folder) as session:
        return values | session(**inputs)
