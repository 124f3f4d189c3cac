"""Converts the graph to FP16 with explicit casts, as the strongly typed networks of TensorRT require."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from deploytool import serde
from deploytool.backends import fp16_emulation
from deploytool.backends.narrow_floats import FP16
from deploytool.backends.session import Array
from deploytool.data.golden import Edge, Golden
from deploytool.errors import ChildDied, StageFailed
from deploytool.exporters import name_scopes
from deploytool.host import fp16_rounding, workers
from deploytool.host.process import run_limited
from deploytool.loading import weights_file
from deploytool.loading.graph import structure
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import edge_checks, metrics
from deploytool.parity.metrics import Tolerances
from deploytool.precision import fp16, hazards, heavy_nodes
from deploytool.precision.conversion import Conversion
from deploytool.precision.search import MOST, Evaluation, Kept, smallest_set
from deploytool.results.artifact import OPTIMISED, Kind, Notes, engine_graph
from deploytool.results.report import Check, Weights
from deploytool.rewrites.graph import storage, weights
from deploytool.spec import AUTO, Job, Precision, Stage
from deploytool.stages.registry import STAGES

_HEADROOM = 0.8  # share of a tolerance that the search for nodes to keep in FP32 uses
_SECONDS = 300.0
_DEPLOY = f"deploy the FP32 graph of the {Stage.REWRITE} stage"
_UNOPTIMISED = (
    "ONNX Runtime {} crashes when it optimises this graph for a CPU, so it runs the graph without optimisation there"
)


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the FP16 graph; nodes of `keep_fp32` stay in FP32, and so do inputs and outputs unless `io` is fp16.

    Raises BadInput if no node matches `keep_fp32`; StageFailed if the mixed-precision search finds no graph within the
    tolerance, if too few heavy nodes are in FP16, or if the graph crashes ONNX Runtime.
    """
    graph = storage.load(engine_graph(inputs.latest(Kind.GRAPH).path))
    try:
        conversion = fp16.convert(graph, keep_io=job.options.io is Precision.FP32)
    except Exception as error:  # the converter and the checker raise errors of any class
        reason = " ".join(str(error).split())
        raise StageFailed(f"the graph cannot be converted to FP16: {reason}", _DEPLOY) from error
    requested, names, evaluations = job.options.keep_fp32, [node.name for node in conversion.nodes], 0
    hazardous = hazards.find(conversion)
    kept, modules = hazardous.nodes, frozenset[str]()
    if requested:
        modules = name_scopes.modules(weights_file.names(inputs.latest(Kind.WEIGHTS).path))
    if requested == (AUTO,):
        kept, evaluations = _search(conversion, kept, inputs.golden(), modules, job)
    elif requested:
        kept |= name_scopes.matching_nodes(requested, names, modules)
    half = conversion.keeping(kept)
    counts = _count(half, kept, by_name=bool(requested) and requested != (AUTO,))
    del conversion  # it has a copy of the FP16 weights
    storage.save(half, out)
    optimised = job.options.runner != "onnxruntime" or _optimised(out)
    short_names = name_scopes.shortest_names(kept, names, modules)
    notes = {"io": job.options.io, **counts, "weights": serde.encode(_weights(graph, half))}
    remarks = [
        *hazardous.lines("FP16"),
        *([] if optimised else [_UNOPTIMISED.format(onnxruntime.__version__)]),
    ]
    notes |= {"guards": serde.encode(hazardous.constants), OPTIMISED: optimised, "remarks": remarks}
    if not requested:
        return notes
    paths = {name: name_scopes.module_path(name, modules) for name in names if name in kept}
    summary = _summary(short_names, len(kept), len(names), evaluations)
    return {
        **notes,
        "kept": paths,
        "keep_fp32": short_names,
        "evaluations": evaluations,
        "remarks": [summary, *remarks],
    }


def _summary(names: list[str], kept: int, nodes: int, evaluations: int) -> str:
    searched = f", {evaluations} evaluations" if evaluations else ""
    return f"kept in FP32: {', '.join(names) or 'nothing'} ({kept} of {nodes} nodes{searched})"


def _count(half: onnx.ModelProto, kept: Kept, *, by_name: bool) -> dict[str, int]:
    """The numbers of heavy nodes in total, in FP16 and kept in FP32; raises StageFailed if too few are in FP16."""
    counts = heavy_nodes.check(half, kept, FP16, _DEPLOY, "keep fewer nodes with --keep-fp32, or " if by_name else "")
    casts = sum(node.op_type == "Cast" for node in half.graph.node)
    heavy, narrow = counts.total, counts.narrow
    return {"heavy_nodes": heavy, "heavy_nodes_fp16": narrow, "heavy_nodes_kept": counts.kept, "casts": casts}


def _search(conversion: Conversion, base: Kept, sample: Golden, modules: frozenset[str], job: Job) -> tuple[Kept, int]:
    """The smallest set of nodes in FP32, including `base`, with which the graph passes, and the number of evaluations.

    Raises StageFailed if the graph passes only with all nodes in FP32, or not even then.
    """
    names = [node.name for node in conversion.nodes if node.name not in base]
    heavy = {node.name: float(node.op_type in heavy_nodes.OPERATORS) for node in conversion.nodes}
    tolerances = metrics.tolerances(sample.noise, job.options.tolerance)
    evaluations: dict[Kept, Evaluation] = {}

    def evaluate(kept: Kept) -> Evaluation:
        if kept not in evaluations:
            evaluations[kept] = assess(conversion.keeping(kept | base), sample, tolerances)
            job.watch(len(evaluations), max(len(evaluations), MOST))
        return evaluations[kept]

    if evaluate(Kept()).holds:
        return base, len(evaluations)
    overflowing = conversion.beyond(_with_edges(sample)) - base
    result = smallest_set(names, evaluate, overflowing, name_scopes.group_by_module(names, modules), heavy)
    if result.kept is None or len(result.kept) == len(names):
        most = max((kept for kept, made in evaluations.items() if not made.holds), key=len)
        halved = [node for node in conversion.nodes if node.name not in most | base]
        problem = "its outputs exceed the tolerance, or its values exceed 65504"
        if halved:
            few = f"even if of {len(names)} nodes only {len(halved)} are in FP16"
            problem = f"{few}, such as the {structure.label(halved[0])}, {problem}"
        raise StageFailed(f"no part of the graph can run in FP16: {problem}", _DEPLOY)
    return result.kept | base, len(evaluations)


def assess(half: onnx.ModelProto, sample: Golden, tolerances: Tolerances) -> Evaluation:
    """Runs a graph with emulated FP16 arithmetic on the golden cases and the natural edge cases.

    The graph passes if its answers are within four fifths of the tolerances of the FP64 reference and no value exceeds
    65504: a runtime, which adds in another order, then stays within the tolerances too.
    """
    answers, largest = fp16_emulation.run_with_range(half, _with_edges(sample))
    cases = len(sample.labels)
    golden_answers = {name: array[:cases] for name, array in answers.items()}
    checks = [metrics.check(golden_answers, sample.reference, "FP64", tolerances.fp16, sample.ties16)]
    for index, edge in enumerate(_natural_edges(sample), cases):
        edge_answers = {name: array[index : index + 1] for name, array in answers.items()}
        check = edge_checks.check(edge_answers, edge, sample, tolerances, lambda _: tolerances, Precision.FP16)
        checks.append(check or checks[0])
    passes = largest <= fp16_rounding.LARGEST and not any(
        check.broken or metrics.largest_share(check) > _HEADROOM for check in checks
    )
    return Evaluation(passes, max(_error(check) for check in checks))


def _error(check: Check) -> float:
    """The largest error, or the share of unequal answers where answers must be equal, whichever is greater."""
    equal = check.parity.equal
    return max(check.parity.max_error, 1 - equal.share if equal else 0.0)


def _natural_edges(sample: Golden) -> list[Edge]:
    return [edge for edge in sample.edges if edge.natural]


def _with_edges(sample: Golden) -> dict[str, Array]:
    """The golden inputs, followed by those of the natural edge cases."""
    edges = _natural_edges(sample)
    return {
        name: np.concatenate([array, *(edge.inputs[name] for edge in edges)]) for name, array in sample.inputs.items()
    }


def _weights(graph: onnx.ModelProto, half: onnx.ModelProto) -> Weights:
    """How many weights are converted, and how many of these become zero or subnormal in FP16."""
    halves = {weight.name for weight in half.graph.initializer if weight.data_type == onnx.TensorProto.FLOAT16}
    singles = [weight for weight in graph.graph.initializer if weight.name in halves]
    converted = flushed = subnormal = 0
    for weight in singles:
        magnitudes = np.abs(weights.values(weight))
        converted += magnitudes.size
        flushed += int(((magnitudes > 0) & (magnitudes < fp16_rounding.SMALLEST)).sum())
        subnormal += int(((magnitudes >= fp16_rounding.SMALLEST) & (magnitudes < fp16_rounding.SMALLEST_NORMAL)).sum())
    return Weights(converted, flushed, subnormal)


def _optimised(graph: Path) -> bool:
    """Whether ONNX Runtime can optimise the graph for a CPU; raises StageFailed if it cannot open it at all.

    Runs in a child process, because some FP16 graphs crash the optimiser.
    """
    try:
        _open(graph, optimise=True)
    except ChildDied:
        _open(graph, optimise=False)
        return False
    return True


def _open(graph: Path, *, optimise: bool) -> None:
    task: list[serde.Json] = [str(graph), optimise]
    try:
        command = workers.command(STAGES[Stage.FP16].worker)
        run_limited(command, what="ONNX Runtime", seconds=_SECONDS, gibibytes=workers.memory_gib(graph), task=task)
    except StageFailed as error:
        raise type(error)(f"the FP16 graph cannot be opened: {error}", "try --runner reference") from error
