"""Compares the scales of a QDQ graph with the table they come from, and both with data."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from onnx import ModelProto

from deploytool.precision.int8 import calibration, thresholds
from deploytool.precision.int8.calibration import Method, Table
from deploytool.precision.int8.calibration_fault import CalibrationFault, Finding
from deploytool.precision.int8.histogram import Histogram, Spans
from deploytool.precision.int8.placement_checks import QUANTIZE
from deploytool.precision.int8.value_range import ValueRange
from deploytool.rewrites.graph.editable import EditableGraph

_DIFFERENT = 1.5  # factor by which a scale is not the one that follows from the table
_UNLIKE = 2.0  # factor by which the extremes in the table and on a part of its data are not those of one tensor
_SAME, _NEARER = 0.1, 0.4  # of the distance to its own value is that of an exchanged one to the other's (logarithms)
_LOST = 0.01  # share of the signal's power that quantisation makes an error: 20 dB
_CUT = 4.0  # how much of that clipping is, as a factor to the error without


@dataclass(frozen=True)
class UsedRange:
    """What 8 bits can represent of a tensor; `positive` says that a ReLU follows, for which negative values are 0."""

    values: ValueRange
    symmetric: bool
    positive: bool


def stale(source: ModelProto, table: Table, cases: Collection[str]) -> str:
    """Why a table is not that of a graph and of calibration cases, given by their digests; empty if it is."""
    if table.graph != calibration.fingerprint(source):
        return "the table belongs to another graph, or to other weights"
    missing = len(set(cases) - set(table.cases))
    return f"{missing} of {len(set(cases))} calibration cases are not in the table" if missing else ""


def used_ranges(quantized: ModelProto, tensors: Collection[str]) -> dict[str, UsedRange]:
    """The ranges that a QDQ graph has for these tensors."""
    graph = EditableGraph(quantized)
    found = {}
    for node in graph.nodes:
        if node.op_type != QUANTIZE or node.input[0] not in tensors:
            continue
        scale = graph.constant(node.input[1])
        zero = graph.constant(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)
        if scale is None or zero is None or scale.size != 1 or zero.dtype.name not in ("int8", "uint8"):
            continue
        step, origin, limits = float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]), np.iinfo(zero.dtype)
        symmetric = zero.dtype.name == "int8" and origin == 0
        lowest = -limits.max if symmetric else limits.min
        values = ValueRange((lowest - origin) * step, (limits.max - origin) * step)
        readers = [reader for each in graph.consumers(node.output[0]) for reader in graph.consumers(each.output[0])]
        positive = bool(readers) and all(reader.op_type == "Relu" for reader in readers)
        found[node.input[0]] = UsedRange(values, symmetric, positive)
    return found


def swapped(used: Mapping[str, UsedRange], method: Method, table: Table, again: Table) -> Iterator[tuple[str, str]]:
    """The pairs of tensors that have the scale of each other, in the graph or already in the table."""
    expected = {name: _expected(table.histograms[name], each, method) for name, each in used.items()}
    widths = {name: _width(each.values) for name, each in used.items()}
    ratios = [widths[name] / wanted[0] for name, wanted in expected.items() if wanted[0]]
    usual = float(np.median(ratios)) if ratios else 1.0  # not 1 where the quantiser leaves out a bit
    in_graph = _exchanged({name: width / usual for name, width in widths.items()}, expected, _DIFFERENT, _SAME)
    in_table = []
    for symmetric in (False, True):
        recorded, seen = (_extents(each, symmetric=symmetric) for each in (table, again))
        in_table += _exchanged(recorded, {name: (width,) for name, width in seen.items()}, _UNLIKE, _NEARER)
    yield from dict.fromkeys([*in_graph, *in_table])


def clipped(used: Mapping[str, UsedRange], tables: Sequence[Table]) -> Iterator[tuple[str, str]]:
    """The tensors whose ranges lose a part of their signal that a wider one keeps, and how much."""
    for name, each in used.items():
        losses = [_loss(table.histograms[name], each) for table in tables]
        if (loss := max(losses)) > _LOST:
            yield name, f"clipping to {each.values.low:.3g} … {each.values.high:.3g} loses {loss:.1%} of its power"


def _loss(histogram: Histogram, used: UsedRange) -> float:
    """The share of the power that is lost by quantisation; 0 if not by clipping."""
    spans, values = histogram.spans(), used.values
    if used.positive:
        above = spans.lower >= 0
        spans = Spans(spans.lower[above], spans.upper[above], spans.counts[above])
    middles = (spans.lower + spans.upper) / 2
    power = float((spans.counts * middles**2).sum() / max(int(spans.counts.sum()), 1))
    wide = ValueRange(min(values.low, histogram.low), max(values.high, histogram.high))
    error = thresholds.squared_error(spans, values)
    return error / power if power and error > _CUT * thresholds.squared_error(spans, wide) else 0.0


def _exchanged(
    found: Mapping[str, float], expected: Mapping[str, tuple[float, ...]], unlike: float, nearer: float
) -> list[tuple[str, str]]:
    """The pairs where each has what is expected of the other, and neither, by a factor, what is expected of it.

    Scales that several tensors share are no such pairs: none of those is smaller than expected.
    """
    own = {name: _apart(value, expected[name]) for name, value in found.items() if value and all(expected[name])}
    odd = [name for name, apart in own.items() if apart > math.log(unlike)]
    return [
        (first, second)
        for first, second in combinations(odd, 2)
        if _apart(found[first], expected[second]) < nearer * own[first]
        and _apart(found[second], expected[first]) < nearer * own[second]
    ]


def _apart(value: float, others: tuple[float, ...]) -> float:
    return min(abs(math.log(value / other)) for other in others)


def _expected(histogram: Histogram, used: UsedRange, method: Method) -> tuple[float, ...]:
    """The widths that a tensor may have: that of its own range, and before a ReLU also that of what the ReLU makes."""
    histograms = {"own": histogram}
    if used.positive and histogram.high > 0:
        counts = np.zeros_like(histogram.counts)
        counts[0] = histogram.counts[0]
        counts[0, 0] += histogram.counts[1].sum()
        histograms["rectified"] = Histogram(0.0, histogram.high, histogram.top, counts)
    ranges = Table("", (), histograms).ranges(method, symmetric=used.symmetric)
    return tuple(_width(values) for values in ranges.values())


def _extents(table: Table, *, symmetric: bool) -> dict[str, float]:
    """The width of the range from the least to the largest value of each tensor."""
    return {name: _width(values) for name, values in table.ranges(Method.MIN_MAX, symmetric=symmetric).items()}


def _width(values: ValueRange) -> float:
    return values.high - values.low


def findings(quantized: ModelProto, method: Method, table: Table, again: Table, golden: Table) -> Iterator[Finding]:
    """Swapped scales, and clipped tensors that are none of them.

    `again` is collected on some of the cases of the table, `golden` on the golden ones.
    """
    used = used_ranges(quantized, table.histograms.keys())
    pairs = list(swapped(used, method, table, again))
    for first, second in pairs:
        yield Finding(CalibrationFault.SWAPPED_SCALES, first, f"{first} and {second} have the scale of each other")
    known = {name for pair in pairs for name in pair}
    rest = {name: each for name, each in used.items() if name not in known}
    for name, reason in clipped(rest, (table, golden)):
        yield Finding(CalibrationFault.CLIPPED_OUTLIER, name, reason)
