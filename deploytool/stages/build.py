"""Builds engines from the FP16 graph: strongly typed, one code path for TensorRT 10, 11 and RTX, GPU or none."""

from __future__ import annotations

import time
from pathlib import Path

from deploytool import builder, plain
from deploytool.artifact import Given, Kind, Notes
from deploytool.backends import tensorrt
from deploytool.report import Engine
from deploytool.spec import BATCH, Job


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes every engine that was planned, the first to `out` and the others beside it.

    Raises MissingBackend if a flavour cannot be imported, StageFailed if TensorRT refuses the graph or builds FP32.
    """
    graph = given.latest(Kind.GRAPH).path.read_bytes()
    free = {**job.options.sizes, BATCH: job.options.batch}
    engines: list[Engine] = []
    log: list[str] = []
    for plan in job.options.engines:
        trt, begun = tensorrt.library(plan.flavour), time.perf_counter()
        built = builder.build(trt, graph, plan, job.model.inputs, free, job.watch)
        out.with_name(plan.file).write_bytes(built.engine)
        seconds, size = round(time.perf_counter() - begun, 3), len(built.engine)
        engines.append(Engine(plan.file, size, plan.flavour, trt.__version__, plan.capabilities, built.layers, seconds))
        log += built.log
    return {"engines": plain.encode(engines), "log": log}
