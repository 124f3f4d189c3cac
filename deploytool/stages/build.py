"""Builds strongly typed engines of FP16, BF16 and INT8 graphs with TensorRT 10, TensorRT 11 or TensorRT-RTX."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from deploytool import serde
from deploytool.backends import tensorrt, tensorrt_builder, tensorrt_estimate
from deploytool.errors import StageFailed
from deploytool.host import disk, side_files
from deploytool.known_issues.catalog import Match
from deploytool.loading.stage_inputs import StageInputs
from deploytool.precision.int8 import executed, macs, refusals
from deploytool.results.artifact import Artifact, Kind, Notes, engine_graph
from deploytool.results.report import Engine
from deploytool.rewrites.graph import storage
from deploytool.spec import BATCH, EnginePlan, Job, Precision
from deploytool.targets import TENSORRT_RTX


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes every engine of `job.options.engines`, the first to `out` and the others beside it.

    Those from the BF16 and INT8 graphs follow, if there are any, under the same names after `bf16_` and `int8_`.

    An engine that a known issue can affect has the probes as additional outputs; the note `probes` lists them by file.
    Raises MissingBackend if a flavour cannot be imported, StageFailed if TensorRT rejects the graph or builds FP32, or
    if it has Q/DQ nodes in a form that TensorRT does not take.
    """
    free = {**job.options.sizes, BATCH: job.options.batch}
    engines, remarks, probes = [], [], {}
    log: list[str] = []
    for artifact, plan in _plans(job, inputs):
        path = engine_graph(artifact.path)
        _check_forms(path)
        graph = path if side_files.side_file(path).exists() else path.read_bytes()
        is_int8 = artifact.made_by.precision is Precision.INT8  # its heavy layers return FP32
        fp32_layers = None if is_int8 else serde.decode(int, artifact.notes.get("heavy_nodes_kept", 0))
        listed = list[str]()
        trt, start = tensorrt.library(plan.flavour), time.perf_counter()
        matches, remark = _affecting(_matches(inputs), plan, trt.__version__)
        tensors = list(dict.fromkeys(match.place.tensor for match in matches if match.is_probed))
        built = tensorrt_builder.build(
            trt,
            graph,
            plan,
            job.model.inputs,
            free,
            job.watch,
            fp32_layers=fp32_layers,
            probes=tensors,
            listen=listed.append,
        )
        disk.write(out.with_name(plan.file), built.engine)
        seconds, size = round(time.perf_counter() - start, 3), len(built.engine)
        engine = Engine(plan.file, size, plan.flavour, trt.__version__, plan.capabilities, built.layers, seconds)
        verbose = "\n".join(listed)
        kernels = tensorrt_estimate.count_kernels(verbose) if plan.flavour == TENSORRT_RTX else None
        engines.append(replace(engine, precision=artifact.made_by.precision, kernels=kernels))
        log += built.log
        remarks += [*remark, *(_int8_remarks(plan, path, verbose, engines) if is_int8 else [])]
        probes[plan.file] = tensors
    return {"engines": serde.encode(engines), "log": log, "probes": probes, "remarks": remarks}


def _int8_remarks(plan: EnginePlan, graph: Path, listed: str, engines: Sequence[Engine]) -> list[str]:
    """What the build log says of an INT8 engine, beside the FP16 engine of the same plan."""
    if plan.flavour != TENSORRT_RTX:
        return []
    wanted = macs.in_graph(storage.load_structure(graph))
    run = len(wanted & executed.in_tensorrt(listed))
    text = f"{plan.file}: the build log lists {run} of {len(wanted)} INT8 nodes as INT8 kernels"
    own, half = engines[-1].kernels, next((each.kernels for each in engines if plan.file.endswith(each.file)), None)
    if own is None or half is None:
        return [text]
    advice = "deploy FP16 until it is measured on a GPU" if own > half else "measure both on a GPU"
    return [f"{text}, and {own} kernels, {half} for FP16: {advice}"]


def _plans(job: Job, inputs: StageInputs) -> Iterator[tuple[Artifact, EnginePlan]]:
    """Every engine with the graph that it is built from."""
    for plan in job.options.engines:
        yield inputs.latest(Kind.GRAPH), plan
    for graph in (*inputs.chain(Kind.BF16_GRAPH), *inputs.chain(Kind.INT8_GRAPH)):
        for plan in job.options.engines:
            yield graph, replace(plan, file=f"{graph.made_by.precision}_{plan.file}")


def _check_forms(graph: Path) -> None:
    """Raises StageFailed for Q/DQ nodes in a form that TensorRT refuses; one of them crashes its parser."""
    found = [each for each in refusals.refusals(storage.load_structure(graph)) if each.form not in refusals.PARSED]
    if found:
        more = f", and {len(found) - 1} more nodes are of such forms" if len(found) > 1 else ""
        problem = f"TensorRT does not take this INT8 graph: {found[0].sentence}{more}"
        raise StageFailed(problem, "quantise symmetrically, without a bias in INT32, or leave --trt out")


def _matches(inputs: StageInputs) -> tuple[Match, ...]:
    """The matches of the known_issues stage; none if it did not run."""
    notes = [artifact.notes["hits"] for artifact in inputs.chain(Kind.PROBES)]
    return tuple(match for encoded in notes for match in serde.decode(tuple[Match, ...], encoded))


def _affecting(matches: tuple[Match, ...], plan: EnginePlan, version: str) -> tuple[tuple[Match, ...], list[str]]:
    """The matches whose issue affects this engine, and a remark on its probes if there is any match."""
    affecting = tuple(
        match
        for match in matches
        if match.endangers(plan.flavour, version, tensorrt.compute_capabilities(plan.flavour, plan.capabilities))
    )
    issues = ", ".join(dict.fromkeys(match.issue for match in affecting or matches))
    if affecting:
        count = len({match.place.tensor for match in affecting if match.is_probed})
        probes = f"{count} probe{'s' * (count > 1)}"
        return affecting, [f"{issues} can affect {plan.file}, which has {probes} as additional outputs"]
    if matches:
        engine = f"{plan.flavour} {version} on its GPUs"
        reported = "are not reported" if "," in issues else "is not reported"
        return affecting, [f"{plan.file} has no probes: {issues} {reported} for {engine}"]
    return affecting, []
