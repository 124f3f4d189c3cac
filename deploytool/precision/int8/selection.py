"""Chooses how an 8-bit graph is calibrated: by which method, and with equalised channels and corrected biases or not.

Compared are the outputs, and in place of one that selects or sorts the results of the last convolutions and products
before it: the boxes that a detector selects are in other rows after the least change, which would be nearly all of
their error.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from deploytool.data.golden import Arrays
from deploytool.precision.int8 import activations, bias_correction, macs, quantize
from deploytool.precision.int8.calibrated_graphs import CalibratedGraph
from deploytool.precision.int8.calibration import Method
from deploytool.precision.int8.placement.fused import Fuses
from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph.editable import EditableGraph

_SELECTING = (
    *("ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "TopK", "Unique"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
)


@dataclass(frozen=True)
class Trial:
    """One way to calibrate, with the error of what is compared: its power relative to that of the FP32 values."""

    method: Method
    equalised: bool
    corrected: bool
    error: float


@dataclass(frozen=True)
class Selected:
    """The graph in 8 bits with the least error, the FP32 graph it was made from, how, and everything that was tried."""

    graph: ModelProto
    base: CalibratedGraph
    trial: Trial
    trials: tuple[Trial, ...]


def best(
    bases: Sequence[CalibratedGraph],
    form: Form,
    kept: frozenset[str],
    cases: Sequence[Arrays],
    fuses: Fuses = Fuses.CLIPPING,
) -> Selected:
    """The calibration of a form with the least error on calibration cases, computed exactly as quantised.

    Every method of the form is tried on every graph, and corrected biases on the best of them. `kept` are the nodes to
    keep out of 8 bits, and `fuses` is what the kernels of the runtime fuse.
    """
    names = compared(bases[0].graph)
    expected = results(bases[0].graph, cases, names)
    found: list[Selected] = []
    for base in bases:
        for method in _methods(form):
            ranges = base.table.ranges(method, symmetric=form.for_engines)
            graph = quantize.quantize(base.graph, ranges, form, kept, fuses)
            trial = Trial(method, base.equalised, False, error(results(graph, cases, names), expected))
            found.append(Selected(graph, base, trial, ()))
    chosen = min(found, key=lambda each: each.trial.error)
    corrected = bias_correction.correct(chosen.base.graph, chosen.graph, cases).graph
    if corrected is not chosen.graph:
        trial = Trial(
            chosen.trial.method, chosen.base.equalised, True, error(results(corrected, cases, names), expected)
        )
        found.append(Selected(corrected, chosen.base, trial, ()))
        chosen = min(found, key=lambda each: each.trial.error)
    return Selected(chosen.graph, chosen.base, chosen.trial, tuple(each.trial for each in found))


def _methods(form: Form) -> tuple[Method, ...]:
    """The ways to choose ranges: FP8 rounds small values as finely whatever the range is, and only loses by a cut."""
    return (Method.MIN_MAX,) if form is Form.E4M3 else tuple(Method)


def compared(graph: ModelProto) -> tuple[str, ...]:
    """The outputs that follow smoothly from the last convolutions and products, and these where others do not."""
    editable = EditableGraph(graph)
    selected, layers = set[str](), dict[str, set[str]]()  # by tensor, the last heavy results that it follows from
    for node in editable.nodes:
        if node.op_type in _SELECTING or selected.intersection(node.input):
            selected.update(node.output)
        before = set[str]().union(*(layers.get(name, set()) for name in node.input))
        layers.update({name: {name} if node.op_type in macs.HEAVY else before for name in node.output})
    replaced = (layers[name] if name in selected else {name} for name in sorted(editable.outputs))
    names = set[str]().union(*replaced)
    return tuple(name for node in editable.nodes for name in node.output if name in names)


def results(graph: ModelProto, cases: Sequence[Arrays], tensors: Sequence[str] = ()) -> list[Arrays]:
    """The tensors for each case, or without any the outputs; a QDQ graph is computed node by node."""
    names = list(tensors) or [value.name for value in graph.graph.output]
    return list(activations.run(graph, names, cases, optimise=False))


def error(found: Collection[Arrays], expected: Collection[Arrays]) -> float:
    """The mean over all floating-point tensors of the power of the difference over that of the expected values."""
    shares = []
    for name, first in next(iter(expected)).items():
        if np.issubdtype(first.dtype, np.floating):
            power = sum(float(np.square(each[name], dtype=np.float64).sum()) for each in expected)
            pairs = zip(found, expected, strict=True)
            noise = sum(float(np.square(a[name] - b[name], dtype=np.float64).sum()) for a, b in pairs)
            shares.append(noise / power if power else noise)
    return float(np.mean(shares)) if shares else 0.0
