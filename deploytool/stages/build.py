"""Builds strongly typed engines from the FP16 graph with TensorRT 10, TensorRT 11 or TensorRT-RTX."""

from __future__ import annotations

import time
from pathlib import Path

from deploytool import serde
from deploytool.backends import tensorrt, tensorrt_builder
from deploytool.host import disk, side_files
from deploytool.known_issues.catalog import Match
from deploytool.loading.stage_inputs import StageInputs
from deploytool.results.artifact import Kind, Notes
from deploytool.results.report import Engine
from deploytool.spec import BATCH, EnginePlan, Job


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes every engine of `job.options.engines`, the first to `out` and the others beside it.

    An engine that a known issue can affect has the probes as additional outputs; the note `probes` lists them by file.
    Raises MissingBackend if a flavour cannot be imported, StageFailed if TensorRT rejects the graph or builds FP32.
    """
    artifact = inputs.latest(Kind.GRAPH)
    graph = artifact.path if side_files.side_file(artifact.path).exists() else artifact.path.read_bytes()
    fp32_layers = serde.decode(int, artifact.notes.get("heavy_nodes_kept", 0))
    free = {**job.options.sizes, BATCH: job.options.batch}
    engines, remarks, probes = [], [], {}
    log: list[str] = []
    for plan in job.options.engines:
        trt, start = tensorrt.library(plan.flavour), time.perf_counter()
        matches, remark = _affecting(_matches(inputs), plan, trt.__version__)
        tensors = list(dict.fromkeys(match.place.tensor for match in matches if match.is_probed))
        built = tensorrt_builder.build(
            trt, graph, plan, job.model.inputs, free, job.watch, fp32_layers=fp32_layers, probes=tensors
        )
        disk.write(out.with_name(plan.file), built.engine)
        seconds, size = round(time.perf_counter() - start, 3), len(built.engine)
        engines.append(Engine(plan.file, size, plan.flavour, trt.__version__, plan.capabilities, built.layers, seconds))
        log += built.log
        remarks += remark
        probes[plan.file] = tensors
    return {"engines": serde.encode(engines), "log": log, "probes": probes, "remarks": remarks}


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
