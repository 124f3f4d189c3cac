"""Who is to blame: the first graph of a run that strays from the one before, and in it the first tensor that does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from deploytool.backends import fp16_emulation, onnxruntime
from deploytool.backends.session import FIXED_SIZE_REMEDY
from deploytool.blame import layer_errors, ort_trace, torch_trace
from deploytool.blame.layer_errors import GraphErrors
from deploytool.blame.ort_trace import TracedTensor
from deploytool.blame.reference_tensor import ReferenceTensor
from deploytool.data import golden
from deploytool.data.golden import Arrays, Golden
from deploytool.errors import StageFailed
from deploytool.parity import edge_checks, metrics, noise
from deploytool.parity.edge_checks import EdgeTolerance
from deploytool.parity.metrics import Tolerances
from deploytool.parity.replay import replay
from deploytool.results.artifact import engine_graph
from deploytool.results.blame import Blame, BlamedGraph, Finding
from deploytool.results.report import Check, Tolerance
from deploytool.spec import Stage

_CASES = 2  # golden cases that are followed through every tensor: those the graph is worst at
_EAGER, _TRUTH = "eager", "FP64"
_DERIVED: Mapping[str, float] = {}  # nothing asked for: the tolerances follow from the noise
_SAME = "the graph before with its weights in FP16"


@dataclass(frozen=True)
class Divergence:
    """What a mismatch can be made small from: the strayed graph, the cases that were followed, and what is known of it.

    `before` is the stage that its tensors are held against, `known` what is known of those, in their order, and
    `tolerated` how far its outputs may stray.
    """

    stage: Stage
    before: str
    graph: Path
    inputs: Arrays
    tolerated: float
    known: tuple[ReferenceTensor, ...]
    drawn: GraphErrors


@np.errstate(invalid="ignore", over="ignore")  # an infinite value is a finding, not a warning
def locate(
    weights: Path,
    sample: Path,
    graphs: Sequence[tuple[Stage, Path]],
    wanted: Mapping[str, float] = _DERIVED,
    probes: Collection[str] = (),
) -> tuple[Blame, Divergence | None]:
    """Replays the golden sample through the graphs (stage and file, oldest first), and looks into all their tensors.

    `wanted` are the tolerances that were asked for, if any were. A graph strays too that is right at its outputs and
    beyond the noise at a probe. There is a clue where there is a finding.

    Raises StageFailed if a graph cannot be run, or answers in other shapes than the one before.
    """
    taken = golden.read(sample)
    checks, converted, cases = _judged(taken, graphs, wanted, noise.NoiseAtSizes(weights, wanted, taken.noise).edge)
    given = [taken.inputs, *(edge.inputs for edge in taken.edges)]
    inputs: Arrays = {name: np.concatenate([each[name] for each in given])[cases] for name in taken.inputs}
    model = torch_trace.trace(weights, inputs)
    comparisons, finding, clue, known = [], None, None, model.calls
    for stage, path in graphs:
        coarse = _coarse(checks[stage], converted.get(stage))
        points, expected = _points(stage, path, graphs, inputs, known, coarse=coarse)
        drawn = layer_errors.compare_layers(points, (*model.inputs, *expected), model.modules)
        comparisons.append(BlamedGraph(stage, checks[stage], drawn.layers))
        broken = [check.against for check in checks[stage] if check.broken]
        broken += [f"probe {tensor}" for tensor in probes if tensor in drawn.wrong]
        if broken and finding is None:
            finding = _finding(stage, broken[0], drawn)
            first = checks[stage][0]
            clue = Divergence(stage, first.against, path, inputs, first.tolerance.max_error, tuple(expected), drawn)
        known = drawn.known
    return Blame(tuple(comparisons), tuple(cases), finding), clue


def _points(
    stage: Stage,
    path: Path,
    graphs: Sequence[tuple[Stage, Path]],
    inputs: Arrays,
    known: Sequence[ReferenceTensor],
    *,
    coarse: bool,
) -> tuple[tuple[TracedTensor, ...], Sequence[ReferenceTensor]]:
    """The tensors of a graph, and what is known of them.

    Where an FP16 graph fails as converted and FP16 itself is too `coarse` to show it, its tensors are computed in FP32,
    and so are those of the graph before with its weights in FP16: without the rounding, the smallest fault stands out.
    """
    graph = onnx.load(path)
    if not coarse:
        return ort_trace.trace(graph, inputs), known
    before = onnx.load(engine_graph(graphs[[name for name, _ in graphs].index(stage) - 1][1]))
    exact = ort_trace.trace(fp16_emulation.round_weights_like(before, graph), inputs)
    values = {point.tensor: point.values for point in exact}
    same = [replace(each, values=values[each.tensor]) if each.tensor in values else each for each in known]
    return ort_trace.trace(fp16_emulation.emulate(onnx.load(path), results=False), inputs), same


def _coarse(checks: Sequence[Check], converted: Check | None) -> bool:
    """Whether a graph fails as converted alone."""
    return [check for check in checks if check.broken] == [converted]


def _finding(stage: Stage, against: str, drawn: GraphErrors) -> Finding:
    lost = drawn.missing is not None
    module = drawn.missing or (drawn.strayed.module if drawn.strayed and not lost else "")
    return Finding(stage, against, module, lost, drawn.strayed, drawn.before)


def _judged(
    taken: Golden, graphs: Sequence[tuple[Stage, Path]], wanted: Mapping[str, float], own: EdgeTolerance
) -> tuple[dict[str, tuple[Check, ...]], dict[str, Check], list[int]]:
    """The checks of every comparison and of the graph as converted, and the worst cases of the first that deviates.

    Behind the golden cases come the edges.
    """
    checks: dict[str, tuple[Check, ...]] = {}
    converted: dict[str, Check] = {}
    worst, before, against = list(range(len(taken.labels))), taken.outputs, _EAGER
    earlier: Path | None = None
    allowed, sound = metrics.tolerances(taken.noise, wanted), True
    for stage, path in graphs:
        got = _replayed(path, taken.inputs, optimise=stage is not Stage.FP16)  # which some FP16 graphs crash
        tolerance = allowed.fp16 if stage is Stage.FP16 else allowed.fp32
        ties = taken.ties(half=stage is Stage.FP16)
        try:
            checks[stage] = (
                metrics.check(got, before, against, tolerance, ties),
                metrics.check(got, taken.reference, _TRUTH, tolerance, ties),
            )
            if stage is Stage.FP16 and earlier:
                converted[stage] = _converted(path, earlier, taken, allowed.fp32)
                checks[stage] += (converted[stage],)
            at_edges = _at_edges(path, taken, allowed, own, half=stage is Stage.FP16)
        except ValueError as error:
            raise StageFailed(f"{stage}/{path.name} against {against}: {error}", FIXED_SIZE_REMEDY) from error
        if sound and any(check.broken for check in checks[stage]):
            worst, sound = _worst(got, taken.reference), False
        elif sound and at_edges:
            worst, sound = [len(taken.labels) + place for place in at_edges], False
        checks[stage] += tuple(at_edges.values())
        before, against, earlier = got, stage, engine_graph(path)
    return checks, converted, worst[:_CASES]


def _converted(path: Path, before: Path, taken: Golden, tolerance: Tolerance) -> Check:
    """The FP16 graph with every operator in FP32, against the graph it was made from with its weights in FP16."""
    inputs = ort_trace.cast_inputs(onnx.load(path), taken.inputs)
    with (
        fp16_emulation.start_without_rounding(path) as wide,
        fp16_emulation.start_with_rounded_weights(before, path) as narrow,
    ):
        return metrics.check(replay(wide, inputs), replay(narrow, inputs), _SAME, tolerance, taken.ties16)


def _at_edges(path: Path, taken: Golden, allowed: Tolerances, own: EdgeTolerance, *, half: bool) -> dict[int, Check]:
    """The checks at edges that the graph does not hold at, by their places, as the verdict has them."""
    found = {}
    for place, edge in enumerate(taken.edges):
        if half and not edge.natural:
            continue
        check = edge_checks.check(_replayed(path, edge.inputs, optimise=not half), edge, taken, allowed, own, half=half)
        if check and check.broken:
            found[place] = check
    return found


def _replayed(path: Path, inputs: Arrays, *, optimise: bool) -> Arrays:
    with onnxruntime.start(path, optimise=optimise) as session:
        return replay(session, ort_trace.cast_inputs(onnx.load(path), inputs))


def _worst(got: Arrays, expected: Arrays) -> list[int]:
    """The cases by their error, the largest first."""
    apart = [np.abs(np.asarray(got[name], np.float64) - expected[name]) for name in expected]
    errors = np.max([np.nan_to_num(each, nan=np.inf).reshape(len(each), -1).max(axis=1) for each in apart], axis=0)
    return [int(case) for case in np.argsort(-errors, kind="stable")]
