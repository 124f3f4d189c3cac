"""Puts FP16 into the graph itself, with explicit casts: TensorRT 11 and RTX know no other way, TensorRT 10 follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from deploytool import serde
from deploytool.backends import fp16_emulation
from deploytool.backends.session import Array
from deploytool.data.golden import Edge, Golden
from deploytool.errors import ChildDied, StageFailed
from deploytool.exporters import name_scopes
from deploytool.host import disk, fp16_rounding, workers
from deploytool.host.process import run_limited
from deploytool.loading import weights_file
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import edge_checks, metrics
from deploytool.parity.metrics import Tolerances
from deploytool.precision import fp16, small_constants
from deploytool.precision.fp16 import Fp16Conversion
from deploytool.precision.search import MOST, Evaluation, Kept, smallest_set
from deploytool.precision.small_constants import SmallConstant
from deploytool.results.artifact import OPTIMISED, Kind, Notes, engine_graph
from deploytool.results.report import Check, Weights
from deploytool.spec import AUTO, Job, Precision, Stage
from deploytool.stages.registry import STAGES

_HEAVY = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_SHARE = 0.9  # of the heavy nodes that are not kept in FP32 on purpose must run in FP16
_LEAST = 0.5  # of all heavy nodes must, before a graph is called FP16
_SECONDS = 300.0
_DEPLOY = f"deploy the FP32 graph of the {Stage.REWRITE} stage"
_UNOPTIMISED = "ONNX Runtime {} crashes when it optimises this graph for a CPU, and runs it there as it is"


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the FP16 graph, with FP32 inputs and outputs unless `io` is fp16, and `keep_fp32` in FP32.

    Raises BadInput if nothing is called as `keep_fp32` says, StageFailed if no small part in FP32 makes the rest hold,
    if too few of the heavy nodes end up in FP16, or if the graph crashes ONNX Runtime.
    """
    graph = onnx.load(engine_graph(inputs.latest(Kind.GRAPH).path))
    try:
        halved = fp16.convert(graph, keep_io=job.options.io is Precision.FP32)
    except Exception as error:  # whatever the converter or the checker raises, the graph was refused
        reason = " ".join(str(error).split())
        raise StageFailed(f"the graph cannot be FP16: {reason}", _DEPLOY) from error
    wanted, names, evaluations = job.options.keep_fp32, [node.name for node in halved.nodes], 0
    found, modules = small_constants.find(halved.single, names), frozenset[str]()
    kept = Kept().union(*(guard.around for guard in found))
    if wanted:
        modules = name_scopes.modules(weights_file.names(inputs.latest(Kind.WEIGHTS).path))
    if wanted == (AUTO,):
        kept, evaluations = _searched(halved, kept, inputs.golden(), modules, job)
    elif wanted:
        kept |= name_scopes.matching_nodes(wanted, names, modules)
    half = halved.keeping(kept)
    counts = _counted(half, kept, by_name=bool(wanted) and wanted != (AUTO,))
    disk.write(out, half.SerializeToString(deterministic=True))
    optimised = job.options.runner != "onnxruntime" or _optimised(out)
    listed = name_scopes.shortest_names(kept, names, modules)
    notes = {"io": job.options.io, **counts, "weights": serde.encode(_weights(graph, half))}
    remarks = [*_told_of(found), *([] if optimised else [_UNOPTIMISED.format(onnxruntime.__version__)])]
    notes |= {"guards": serde.encode(found), OPTIMISED: optimised, "remarks": remarks}
    if not wanted:
        return notes
    where = {name: name_scopes.module_path(name, modules) for name in names if name in kept}
    summary = _summary(listed, len(kept), len(names), evaluations)
    return {
        **notes,
        "kept": where,
        "keep_fp32": listed,
        "evaluations": evaluations,
        "remarks": [summary, *remarks],
    }


def _told_of(found: Sequence[SmallConstant]) -> list[serde.Json]:
    """A line for every number that FP16 does not have and that is kept, with where the first of them stands."""
    remarks = list[serde.Json]()
    for number in dict.fromkeys(guard.number for guard in found):
        mine = [guard for guard in found if guard.number == number]
        nodes = len({node for guard in mine for node in guard.around})
        more = f" and {len(mine) - 1} more" if len(mine) > 1 else ""
        remarks.append(f"FP16 has no {number:.3g}: the {nodes} nodes around {mine[0].node}{more} stay FP32")
    return remarks


def _summary(listed: list[str], kept: int, nodes: int, evaluations: int) -> str:
    searched = f", {evaluations} evaluations" if evaluations else ""
    return f"kept in FP32: {', '.join(listed) or 'nothing'} ({kept} of {nodes} nodes{searched})"


def _counted(half: onnx.ModelProto, kept: Kept, *, by_name: bool) -> dict[str, int]:
    """How many heavy nodes there are, in FP16, and kept on purpose; raises StageFailed if this is no FP16 graph."""
    halved, heavy = count_fp16(half)
    meant = sum(node.op_type in _HEAVY for node in half.graph.node if node.name in kept)
    if halved < _LEAST * heavy and meant:
        raise StageFailed(
            f"{meant} of {heavy} Conv, MatMul and Gemm nodes are kept in FP32: that is no FP16 graph",
            f"{'keep less with --keep-fp32, or ' if by_name else ''}{_DEPLOY}",
        )
    if halved < _SHARE * (heavy - meant):
        raise StageFailed(
            f"only {halved} of {heavy} Conv, MatMul and Gemm nodes would run in FP16: that is no FP16 graph",
            f"{_DEPLOY}, or report the model",
        )
    casts = sum(node.op_type == "Cast" for node in half.graph.node)
    return {"heavy_nodes": heavy, "heavy_nodes_fp16": halved, "heavy_nodes_kept": meant, "casts": casts}


def _searched(
    halved: Fp16Conversion, base: Kept, sample: Golden, modules: frozenset[str], job: Job
) -> tuple[Kept, int]:
    """The fewest nodes in FP32, beside those of `base`, with which FP16 arithmetic holds on the golden sample.

    With them comes how many sets were tried. Raises StageFailed if nothing short of everything holds.
    """
    names = [node.name for node in halved.nodes if node.name not in base]
    heavy = {node.name: float(node.op_type in _HEAVY) for node in halved.nodes}
    tolerances = metrics.tolerances(sample.noise, job.options.tolerance)
    tried: dict[Kept, Evaluation] = {}

    def judge(kept: Kept) -> Evaluation:
        if kept not in tried:
            tried[kept] = assess(halved.keeping(kept | base), sample, tolerances)
            job.watch(len(tried), max(len(tried), MOST))
        return tried[kept]

    if judge(Kept()).holds:
        return base, len(tried)
    found = smallest_set(
        names, judge, halved.beyond(_with_edges(sample)) - base, name_scopes.group_by_module(names, modules), heavy
    )
    if found.kept is None or len(found.kept) == len(names):
        raise StageFailed(
            "no part of the graph can be FP16: even so its answers are beyond the tolerance or beyond 65504",
            _DEPLOY,
        )
    return found.kept | base, len(tried)


def assess(half: onnx.ModelProto, sample: Golden, allowed: Tolerances) -> Evaluation:
    """Whether FP16 arithmetic stays near the FP64 source, at natural edges too, and nothing in it is beyond 65504."""
    answers, largest = fp16_emulation.run_with_range(half, _with_edges(sample))
    cases = len(sample.labels)
    got = {name: array[:cases] for name, array in answers.items()}
    checks = [metrics.check(got, sample.reference, "FP64", allowed.fp16, sample.ties16)]
    for place, edge in enumerate(_natural(sample), cases):
        own = {name: array[place : place + 1] for name, array in answers.items()}
        checks.append(edge_checks.check(own, edge, sample, allowed, lambda _: allowed, half=True) or checks[0])
    holds = largest <= fp16_rounding.LARGEST and not any(check.broken for check in checks)
    return Evaluation(holds, max(_strayed(check) for check in checks))


def _strayed(check: Check) -> float:
    """How far answers are off: by their largest error, or by the share of those that should be equal and are not."""
    equal = check.parity.equal
    return max(check.parity.max_error, 1 - equal.share if equal else 0.0)


def _natural(sample: Golden) -> list[Edge]:
    return [edge for edge in sample.edges if edge.natural]


def _with_edges(sample: Golden) -> dict[str, Array]:
    """The golden inputs, and behind them those of the natural edges."""
    edges = _natural(sample)
    return {
        name: np.concatenate([array, *(edge.inputs[name] for edge in edges)]) for name, array in sample.inputs.items()
    }


def _weights(graph: onnx.ModelProto, half: onnx.ModelProto) -> Weights:
    """What FP16 does to the FP32 weights of a graph, those aside that stay FP32."""
    halves = {weight.name for weight in half.graph.initializer if weight.data_type == onnx.TensorProto.FLOAT16}
    singles = [weight for weight in graph.graph.initializer if weight.name in halves]
    arrays = [onnx.numpy_helper.to_array(weight).ravel() for weight in singles]
    sizes = np.abs(np.concatenate(arrays or [np.zeros(0)]))
    flushed = (sizes > 0) & (sizes < fp16_rounding.SMALLEST)
    subnormal = (sizes >= fp16_rounding.SMALLEST) & (sizes < fp16_rounding.SMALLEST_NORMAL)
    return Weights(len(sizes), int(flushed.sum()), int(subnormal.sum()))


def _optimised(graph: Path) -> bool:
    """Whether ONNX Runtime can optimise the graph for a CPU; raises StageFailed if it cannot open it as it is either.

    It is asked in a child, for some FP16 graphs crash its optimiser.
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
        run_limited(command, what="ONNX Runtime", seconds=_SECONDS, gibibytes=workers.MEMORY_GIB, task=task)
    except StageFailed as error:
        raise type(error)(f"the FP16 graph cannot be opened: {error}", "try --runner reference") from error


def count_fp16(graph: onnx.ModelProto) -> tuple[int, int]:
    """How many Conv, ConvTranspose, MatMul and Gemm nodes compute in FP16, and how many there are."""
    typed = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*typed.input, *typed.value_info, *typed.output)}
    types |= {weight.name: weight.data_type for weight in typed.initializer}
    heavy = [node for node in typed.node if node.op_type in _HEAVY]
    half = [node for node in heavy if all(types[name] == onnx.TensorProto.FLOAT16 for name in node.input if name)]
    return len(half), len(heavy)
