"""Locates the first graph of a run that deviates from the one before, and the first wrong tensor in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deploytool.backends import fp16_emulation, onnxruntime
from deploytool.backends.session import FIXED_SIZE_REMEDY
from deploytool.blame import layer_errors, ort_trace, torch_trace
from deploytool.blame.layer_errors import GraphErrors
from deploytool.blame.ort_trace import TracedTensor
from deploytool.blame.reference_tensor import ReferenceTensor
from deploytool.data import golden
from deploytool.data.golden import Arrays, Golden
from deploytool.errors import StageFailed
from deploytool.parity import detection_rows, edge_checks, metrics, noise
from deploytool.parity.edge_checks import EdgeTolerance
from deploytool.parity.metrics import Tolerances
from deploytool.parity.replay import replay
from deploytool.results.artifact import engine_graph
from deploytool.results.blame import Blame, BlamedGraph, Finding
from deploytool.results.report import Check, Tolerance
from deploytool.rewrites.graph import storage
from deploytool.spec import Precision, Stage

_MAX_CASES = 2  # traced through every tensor: those with the largest errors
_EAGER, _FP64 = "eager", "FP64"
_NO_TOLERANCES: Mapping[str, float] = {}  # none requested: the tolerances are derived from the noise
_ROUNDED_WEIGHTS = "the graph before with its weights in FP16"


@dataclass(frozen=True)
class Divergence:
    """The first wrong graph, with everything that is needed to reduce its mismatch.

    `reference_stage` is the stage that made the graph it is compared with, `references` are that graph's tensors in
    order, `inputs` the traced cases, and `tolerance` is that of the graph's outputs.
    """

    stage: Stage
    reference_stage: str
    graph: Path
    inputs: Arrays
    tolerance: float
    references: tuple[ReferenceTensor, ...]
    errors: GraphErrors


@np.errstate(invalid="ignore", over="ignore")  # an infinite value is a finding, not a warning
def locate(
    weights: Path,
    sample: Path,
    graphs: Sequence[tuple[Stage, Path]],
    requested: Mapping[str, float] = _NO_TOLERANCES,
    probes: Collection[str] = (),
) -> tuple[Blame, Divergence | None]:
    """Replays the golden data through the graphs (stage and file, in order), and compares all their tensors.

    `requested` holds the tolerances that the user set. A graph also counts as wrong if its outputs are right but a
    probe is beyond the noise floor. There is a divergence if and only if there is a finding.

    Raises StageFailed if a graph cannot be run, or if its outputs have other shapes than those of the previous graph.
    """
    recorded = golden.read(sample)
    edge_noise = noise.NoiseAtSizes(weights, requested, recorded.noise).edge
    checks, converted, cases = _check_graphs(recorded, graphs, requested, edge_noise)
    groups = [recorded.inputs, *(edge.inputs for edge in recorded.edges)]
    inputs: Arrays = {name: np.concatenate([group[name] for group in groups])[cases] for name in recorded.inputs}
    model = torch_trace.trace(weights, inputs)
    comparisons, finding, divergence, references = [], None, None, model.calls
    for stage, path in graphs:
        coarse = _fails_as_converted_only(checks[stage], converted.get(stage))
        tensors, expected = _trace(stage, path, graphs, inputs, references, coarse=coarse)
        errors = layer_errors.compare_layers(tensors, (*model.inputs, *expected), model.modules)
        comparisons.append(BlamedGraph(stage, checks[stage], errors.layers))
        broken = [check.against for check in checks[stage] if check.broken]
        broken += [f"probe {tensor}" for tensor in probes if tensor in errors.wrong]
        if broken and finding is None:
            finding = _finding(stage, broken[0], errors)
            first = checks[stage][0]
            tolerance = first.tolerance.max_error
            divergence = Divergence(stage, first.against, path, inputs, tolerance, tuple(expected), errors)
        references = errors.references
    return Blame(tuple(comparisons), tuple(cases), finding), divergence


def _trace(
    stage: Stage,
    path: Path,
    graphs: Sequence[tuple[Stage, Path]],
    inputs: Arrays,
    references: Sequence[ReferenceTensor],
    *,
    coarse: bool,
) -> tuple[tuple[TracedTensor, ...], Sequence[ReferenceTensor]]:
    """The tensors of a graph, and their references.

    If an FP16 graph fails only as converted, FP16 is too `coarse` to show the fault. Then its tensors and those of the
    previous graph, with weights rounded to FP16, are computed in FP32: without the rounding of results, much smaller
    faults are visible.
    """
    graph = storage.load(path)
    if not coarse:
        return ort_trace.trace(graph, inputs), references
    index = [name for name, _ in graphs].index(stage)
    previous = storage.load(engine_graph(graphs[index - 1][1]))
    exact = ort_trace.trace(fp16_emulation.round_weights_like(previous, graph), inputs)
    values = {tensor.tensor: tensor.values for tensor in exact}
    expected = [
        replace(tensor, values=values[tensor.tensor]) if tensor.tensor in values else tensor for tensor in references
    ]
    return ort_trace.trace(fp16_emulation.emulate(storage.load(path), results=False), inputs), expected


def _fails_as_converted_only(checks: Sequence[Check], converted: Check | None) -> bool:
    """Whether the check of the graph as converted is the only one that fails."""
    return [check for check in checks if check.broken] == [converted]


def _finding(stage: Stage, against: str, errors: GraphErrors) -> Finding:
    lost = errors.lost_module is not None
    module = errors.lost_module or (errors.first_wrong.module if errors.first_wrong and not lost else "")
    return Finding(stage, against, module, lost, errors.first_wrong, errors.worst_input)


def _check_graphs(
    recorded: Golden,
    graphs: Sequence[tuple[Stage, Path]],
    requested: Mapping[str, float],
    edge_tolerance: EdgeTolerance,
) -> tuple[dict[str, tuple[Check, ...]], dict[str, Check], list[int]]:
    """The checks of every graph, that of the FP16 graph as converted, and the worst cases of the first wrong graph.

    Cases are numbered through the golden data, and then through the edge cases.
    """
    checks: dict[str, tuple[Check, ...]] = {}
    converted: dict[str, Check] = {}
    worst, expected, against = list(range(len(recorded.labels))), recorded.outputs, _EAGER
    previous: Path | None = None
    tolerances, all_right = metrics.tolerances(recorded.noise, requested), True
    for stage, path in graphs:
        precision, half = stage.precision, stage is Stage.FP16
        outputs = _run(path, recorded.inputs, optimise=not half)  # optimisation crashes on some FP16 graphs
        tolerance, ties = tolerances.of(precision), recorded.ties(precision)
        try:
            checks[stage] = (
                metrics.check(outputs, expected, against, tolerance, ties),
                metrics.check(outputs, recorded.reference, _FP64, tolerance, ties),
            )
            if half and previous:
                converted[stage] = _check_as_converted(path, previous, recorded, tolerances.fp32)
                checks[stage] += (converted[stage],)
            failed_edges = _failed_edges(path, recorded, tolerances, edge_tolerance, precision)
        except ValueError as error:
            raise StageFailed(f"{stage}/{path.name} against {against}: {error}", FIXED_SIZE_REMEDY) from error
        if all_right and any(check.broken for check in checks[stage]):
            aligned = detection_rows.aligned_by_most(outputs, recorded.reference, recorded.noise.rows)
            worst, all_right = _by_error(aligned, recorded.reference), False
        elif all_right and failed_edges:
            worst, all_right = [len(recorded.labels) + index for index in failed_edges], False
        checks[stage] += tuple(failed_edges.values())
        expected, against, previous = outputs, stage, engine_graph(path)
    return checks, converted, worst[:_MAX_CASES]


def _check_as_converted(path: Path, previous: Path, recorded: Golden, tolerance: Tolerance) -> Check:
    """Compares the FP16 graph, computed in FP32, with the previous graph, its weights rounded to FP16."""
    inputs = ort_trace.cast_inputs(storage.load_structure(path), recorded.inputs)
    with (
        fp16_emulation.start_without_rounding(path) as converted,
        fp16_emulation.start_with_rounded_weights(previous, path) as original,
    ):
        outputs, expected = replay(converted, inputs), replay(original, inputs)
    return metrics.check(outputs, expected, _ROUNDED_WEIGHTS, tolerance, recorded.ties16)


def _failed_edges(
    path: Path, recorded: Golden, tolerances: Tolerances, edge_tolerance: EdgeTolerance, precision: Precision
) -> dict[int, Check]:
    """The failed checks at edge cases by the index of the case, with the same rules as the verdict."""
    failed, half = {}, precision is not Precision.FP32
    for index, edge in enumerate(recorded.edges):
        if half and not edge.natural:
            continue
        outputs = _run(path, edge.inputs, optimise=not half)
        check = edge_checks.check(outputs, edge, recorded, tolerances, edge_tolerance, precision)
        if check and check.broken:
            failed[index] = check
    return failed


def _run(path: Path, inputs: Arrays, *, optimise: bool) -> Arrays:
    with onnxruntime.start(path, optimise=optimise) as session:
        return replay(session, ort_trace.cast_inputs(storage.load_structure(path), inputs))


def _by_error(actual: Arrays, expected: Arrays) -> list[int]:
    """The cases by their largest absolute error, the largest first."""
    errors = [np.abs(np.asarray(actual[name], np.float64) - expected[name]) for name in expected]
    by_output = [np.nan_to_num(error, nan=np.inf).reshape(len(error), -1).max(axis=1) for error in errors]
    return [int(case) for case in np.argsort(-np.max(by_output, axis=0), kind="stable")]
