"""Finds the layers to keep out of INT8 or FP8, judged by the decisions of the graph on calibration cases.

These are not the cases that the result is judged by: a choice made on those would flatter it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import ModelProto

from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
from deploytool.precision.int8 import keep_search, macs, quantize, selection
from deploytool.precision.int8.calibrated_graphs import CalibratedGraph
from deploytool.precision.int8.selection import Selected
from deploytool.precision.search import Evaluation, Kept, SearchResult
from deploytool.results.int8_forms import Form
from deploytool.spec import Precision

_FEW = 8  # cases for the sensitivity of a layer: the order counts, not the numbers

Disagreement = Callable[[Sequence[Arrays], Sequence[Arrays]], float]  # of outputs for cases, from 0 to 1


def search(
    bases: Sequence[CalibratedGraph],
    form: Form,
    cases: Sequence[Arrays],
    few: int,
    disagreement: Disagreement,
    margin: float,
) -> tuple[Kept, int]:
    """The layers to keep, and the number of evaluations; the first `few` cases choose how the graph is calibrated.

    Raises StageFailed if decisions differ with every layer kept.
    """
    chosen = selection.best(bases, form, frozenset(), cases[:few])
    result = find(chosen, form, cases, disagreement, margin)
    if result.kept is None:
        raise StageFailed("the graph decides otherwise with every layer kept", "deploy the FP32 or the FP16 graph")
    return result.kept, result.evaluations


def remark(names: Sequence[str], evaluations: int, cases: int, precision: Precision) -> str:
    """What was kept out of a precision by the search."""
    judged = f"{evaluations} evaluation{'s' * (evaluations > 1)}"
    return f"kept out of {precision.upper()}: {', '.join(names) or 'nothing'} ({judged} on {cases} cases)"


def find(
    chosen: Selected, form: Form, cases: Sequence[Arrays], disagreement: Disagreement, margin: float
) -> SearchResult:
    """The fewest layers to keep so that decisions on the cases differ from those of FP32 by no more than the margin.

    `chosen` says which graph is quantised, and by which method. None in the result if it fails with all layers kept.
    """
    base, ranges = chosen.base, chosen.base.table.ranges(chosen.trial.method, symmetric=form.for_engines)
    layers, expected = quantize.candidates(base.graph, form), selection.results(base.graph, cases)
    compared = selection.compared(base.graph)
    values = selection.results(base.graph, cases[:_FEW], compared)

    def without(kept: Kept) -> ModelProto:
        return base.graph if kept.issuperset(layers) else quantize.quantize(base.graph, ranges, form, kept)

    def error(kept: Kept) -> float:
        return selection.error(selection.results(without(kept), cases[:_FEW], compared), values)

    def judge(kept: Kept) -> Evaluation:
        got = selection.results(without(kept), cases)
        share = disagreement(got, expected)
        return Evaluation(share <= margin, share)

    if judge(Kept()).holds:
        return SearchResult(Kept(), 1)
    return keep_search.fewest_layers(layers, judge, keep_search.sensitivities(layers, error), macs.count(base.graph))
