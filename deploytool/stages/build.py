"""Builds engines from the FP16 graph: strongly typed, one code path for TensorRT 10, 11 and RTX, GPU or none."""

from __future__ import annotations

import time
from pathlib import Path

from deploytool import serde
from deploytool.backends import tensorrt, tensorrt_builder
from deploytool.host import disk
from deploytool.known_issues.catalog import Match
from deploytool.loading.stage_inputs import StageInputs
from deploytool.results.artifact import Kind, Notes
from deploytool.results.report import Engine
from deploytool.spec import BATCH, EnginePlan, Job


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes every engine that was planned, the first to `out` and the others beside it.

    An engine that a known miscompile can hit gives the probes too: `probes` says which engine gives which.
    Raises MissingBackend if a flavour cannot be imported, StageFailed if TensorRT refuses the graph or builds FP32.
    """
    taken = inputs.latest(Kind.GRAPH)
    graph, kept = taken.path.read_bytes(), serde.decode(int, taken.notes.get("heavy_nodes_kept", 0))
    free = {**job.options.sizes, BATCH: job.options.batch}
    engines, remarks, given_too = [], [], {}
    log: list[str] = []
    for plan in job.options.engines:
        trt, begun = tensorrt.library(plan.flavour), time.perf_counter()
        hits, remark = _endangered(_hits(inputs), plan, trt.__version__)
        probes = [hit.place.tensor for hit in hits]
        built = tensorrt_builder.build(
            trt, graph, plan, job.model.inputs, free, job.watch, fp32_layers=kept, probes=probes
        )
        disk.write(out.with_name(plan.file), built.engine)
        seconds, size = round(time.perf_counter() - begun, 3), len(built.engine)
        engines.append(Engine(plan.file, size, plan.flavour, trt.__version__, plan.capabilities, built.layers, seconds))
        log += built.log
        remarks += remark
        given_too[plan.file] = probes
    return {"engines": serde.encode(engines), "log": log, "probes": given_too, "remarks": remarks}


def _hits(inputs: StageInputs) -> tuple[Match, ...]:
    """The places that the lint found."""
    return tuple(
        hit for artifact in inputs.chain(Kind.PROBES) for hit in serde.decode(tuple[Match, ...], artifact.notes["hits"])
    )


def _endangered(hits: tuple[Match, ...], plan: EnginePlan, version: str) -> tuple[tuple[Match, ...], list[str]]:
    """Those of the places that this engine can be wrong at, and a line on what is done there."""
    here = tuple(
        hit
        for hit in hits
        if hit.endangers(plan.flavour, version, tensorrt.compute_capabilities(plan.flavour, plan.capabilities))
    )
    issues = ", ".join(dict.fromkeys(hit.issue for hit in here or hits))
    if here:
        return here, [f"{plan.file} can be hit by {issues}: it gives {len(here)} tensors more, the probes"]
    if hits:
        return here, [f"{plan.file} has no probes: {issues} is not reported for {plan.flavour} {version} there"]
    return here, []
