"""Finds the form of a graph that is fastest in OpenVINO in INT8, which need not be the one that is in FP32."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack

from onnx import ModelProto

from deploytool.benchmark import choice, form_timing
from deploytool.data.golden import Arrays
from deploytool.precision.int8 import calibration, quantize
from deploytool.precision.int8.calibration import Method
from deploytool.precision.int8.placement.fused import Fuses
from deploytool.results.int8_forms import cpu_form
from deploytool.rewrites import forms
from deploytool.rewrites.forms import Candidate
from deploytool.rewrites.recipes import ORIGINAL, RECIPES
from deploytool.spec import Range


def fastest(graph: ModelProto, names: Collection[str], inputs: Arrays, batches: Range) -> Candidate:
    """The fastest of the forms of these names, the original among them; that unless another is significantly faster.

    The ranges are those of `inputs`: speed does not depend on them. Raises StageFailed if OpenVINO cannot run a form.
    """
    found = forms.candidates(graph, {name: recipe for name, recipe in RECIPES.items() if name in names})
    graphs = {form.name: _quantised(form.model, inputs) for form in found}
    with ExitStack() as stack:
        _, trials = form_timing.in_openvino(stack, graphs, inputs, batches)
    best = choice.choose(form_timing.by_form(trials), ORIGINAL)
    return next(form for form in found if form.name == best)


def _quantised(graph: ModelProto, inputs: Arrays) -> bytes:
    form, fuses = cpu_form(), Fuses.ACTIVATIONS
    table = calibration.collect(graph, quantize.activations(graph, form, fuses), [inputs])
    ranges = table.ranges(Method.MIN_MAX, symmetric=False)
    return bytes(quantize.quantize(graph, ranges, form, fuses=fuses).SerializeToString())
