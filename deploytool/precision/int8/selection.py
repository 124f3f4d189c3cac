"""Chooses how an INT8 graph is calibrated: by which method, and with equalised channels and corrected biases or not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from deploytool.data.golden import Arrays
from deploytool.precision.int8 import activations, bias_correction, quantize
from deploytool.precision.int8.calibrated_graphs import CalibratedGraph
from deploytool.precision.int8.calibration import Method
from deploytool.precision.int8.forms import Form


@dataclass(frozen=True)
class Trial:
    """One way to calibrate, with the error of the outputs: its power relative to that of the FP32 graph's outputs."""

    method: Method
    equalised: bool
    corrected: bool
    error: float


@dataclass(frozen=True)
class Selected:
    """The INT8 graph with the least error, the FP32 graph it was made from, how, and everything that was tried."""

    graph: ModelProto
    base: CalibratedGraph
    trial: Trial
    trials: tuple[Trial, ...]


def best(bases: Sequence[CalibratedGraph], form: Form, kept: frozenset[str], cases: Sequence[Arrays]) -> Selected:
    """The best calibration of a form by its outputs on calibration cases, computed exactly as quantised.

    Every method is tried on every graph, and corrected biases on the best of them. `kept` are the nodes to keep out of
    INT8.
    """
    expected = outputs(bases[0].graph, cases)
    found: list[Selected] = []
    for base in bases:
        for method in Method:
            ranges = base.table.ranges(method, symmetric=form is Form.TENSORRT)
            graph = quantize.quantize(base.graph, ranges, form, kept)
            trial = Trial(method, base.equalised, False, error(outputs(graph, cases), expected))
            found.append(Selected(graph, base, trial, ()))
    chosen = min(found, key=lambda each: each.trial.error)
    corrected = bias_correction.correct(chosen.base.graph, chosen.graph, cases).graph
    if corrected is not chosen.graph:
        trial = Trial(chosen.trial.method, chosen.base.equalised, True, error(outputs(corrected, cases), expected))
        found.append(Selected(corrected, chosen.base, trial, ()))
        chosen = min(found, key=lambda each: each.trial.error)
    return Selected(chosen.graph, chosen.base, chosen.trial, tuple(each.trial for each in found))


def outputs(graph: ModelProto, cases: Sequence[Arrays]) -> list[Arrays]:
    """The outputs for each case; a QDQ graph is computed node by node."""
    names = [value.name for value in graph.graph.output]
    return list(activations.run(graph, names, cases, optimise=False))


def error(found: Collection[Arrays], expected: Collection[Arrays]) -> float:
    """The mean over all floating-point outputs of the power of the difference over that of the expected values."""
    shares = []
    for name, first in next(iter(expected)).items():
        if np.issubdtype(first.dtype, np.floating):
            power = sum(float(np.square(each[name], dtype=np.float64).sum()) for each in expected)
            pairs = zip(found, expected, strict=True)
            noise = sum(float(np.square(a[name] - b[name], dtype=np.float64).sum()) for a, b in pairs)
            shares.append(noise / power if power else noise)
    return float(np.mean(shares)) if shares else 0.0
