"""Compares every artifact with the previous one and with the FP64 reference, and times it against the original."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from deploytool import serde
from deploytool.backends import eager, fp16_emulation
from deploytool.benchmark import eight_bits, quick
from deploytool.data.golden import Golden
from deploytool.host import machine
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import checks, corner_records, intermediates, metrics, noise
from deploytool.parity.checks import PlannedComparison
from deploytool.parity.intermediates import Probes
from deploytool.parity.replay import replay
from deploytool.parity.shape_corners import Corner, draw
from deploytool.results import baked_values, report, speed_gate, verdict
from deploytool.results.artifact import LIMITS, Kind, Notes
from deploytool.results.baked_values import BakedValue, Origin
from deploytool.results.corners import NOTE
from deploytool.results.faults import FaultsResult
from deploytool.results.fp8 import Fp8
from deploytool.results.int8 import Int8
from deploytool.results.measure import Measures
from deploytool.results.report import Comparison, Fp16Range, Report, Weights
from deploytool.spec import BATCH, Job, Precision, Range, Stage
from deploytool.stages.registry import STAGES
from deploytool.targets import DISTRIBUTIONS

_LIBRARIES = ("deploytool", "torch", "onnx", "onnxsim", "onnxruntime", "onnxruntime-gpu", *DISTRIBUTIONS)


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the report. A failed check is part of the report and raises nothing: the caller decides what follows."""
    artifact, sample = inputs.latest(Kind.GOLDEN), inputs.golden()
    devices, engines = eager.devices(), checks.engine_comparisons(inputs)
    weights = inputs.source().weights
    at_sizes = noise.NoiseAtSizes(weights, job.options.tolerance, sample.noise)
    corners = _corners(job, weights, sample, _baked_values(inputs))
    comparisons = _compare(job, inputs, sample, devices, engines, corners, at_sizes)
    timed = checks.graph_comparisons(devices[-1], job, inputs) + engines + eight_bits.with_fp32(inputs, devices[-1])
    speeds, rounds = quick.measure(weights, timed, sample.inputs, job, devices[-1])
    result = Report(
        schema=report.SCHEMA,
        model=job.model.name,
        device=machine.gpus()[0].name if "cuda" in devices else machine.cpu(),
        batch=job.options.batch.smallest,
        rounds=rounds,
        images=len(sample.labels),
        margin=serde.decode(float, artifact.notes["smallest_margin"]),
        data=job.options.data.path if job.options.data else None,
        comparisons=comparisons,
        speeds=speeds,
        gate=speed_gate.judge(job.options.min_speedup, speeds, checks.build_notes(inputs), job.options.precision),
        fp16_range=_fp16_range(inputs, sample),
        faults=_faults(inputs),
        engines=checks.build_notes(inputs),
        targets=job.options.targets,
        remarks=_remarks(inputs, comparisons),
        versions={name: version for name in _LIBRARIES if (version := machine.version(name))},
        options=_options(job, inputs),
        baked_values=_baked_values(inputs),
        baseline=quick.baseline(inputs.source().definition),
        selections=serde.decode(tuple[str, ...], artifact.notes.get("selections", [])),
        measures=_measures(inputs),
        int8=_int8(inputs),
        fp8=_fp8(inputs),
    )
    report.write(out, result)
    free = {**job.options.sizes, BATCH: job.options.batch}
    serves = {"free": free, "io": job.options.io, "builder": job.options.builder}
    broken = verdict.failed_lines(result)
    recorded = [] if broken else corners  # such a run is not packed
    return {
        "broken": list(broken),
        "unmeasured": list(verdict.unmeasured_lines(result)),
        "serves": serde.encode(serves),
        NOTE: serde.encode(corner_records.write(out.parent, recorded, at_sizes, _quantised(inputs), sample)),
    }


def _compare(
    job: Job,
    inputs: StageInputs,
    sample: Golden,
    devices: Sequence[str],
    engines: list[PlannedComparison],
    corners: list[Corner],
    at_sizes: noise.NoiseAtSizes,
) -> tuple[Comparison, ...]:
    """All comparisons of the run: that of FP32 with the FP64 reference first, then one or more for each artifact."""
    graphs = [step for device in devices for step in checks.graph_comparisons(device, job, inputs)]
    steps = graphs + checks.fp16_comparisons(inputs) + checks.bf16_comparisons(inputs) + engines
    tolerances = metrics.tolerances(sample.noise, job.options.tolerance)
    first = checks.source_comparison(inputs.latest(Kind.GOLDEN), sample, tolerances)
    answers = checks.reference_answers(job, inputs, sample)
    return (first, *checks.judge(steps, answers, sample, corners, _probes(inputs), job, at_sizes.edge, at_sizes))


def _corners(job: Job, weights: Path, sample: Golden, lines: tuple[BakedValue, ...]) -> list[Corner]:
    """The corners of the dynamic sizes with the answers of the eager model, which is loaded only if there are any.

    If an exporter fixed a value that depends on sizes, the largest batch is a corner too.
    """
    by_sizes, largest = any(line.origin is Origin.SHAPE for line in lines), job.options.batch.largest
    if not job.options.sizes and not by_sizes:
        return []
    with eager.start(weights) as source:
        corners = draw(job.model, job.options.sizes, source, job.options.builder.profiles)
        if by_sizes:
            cases = checks.first_cases(sample.inputs, largest)
            name, answers = f"batch size {largest}", replay(source, cases, Range(largest, largest, largest))
            corners.append(Corner(f"eager, {name}", name, cases, answers))
    return corners


def _options(job: Job, inputs: StageInputs) -> dict[str, serde.Json]:
    """The options that this and all earlier stages read, except targets and engines, which have fields of their own."""
    stages = (*(artifact.made_by for artifact in inputs.artifacts), Stage.VALIDATE)
    names = {name for stage in stages for name in STAGES[stage].options} - {"targets", "engines"}
    return {name: serde.encode(getattr(job.options, name)) for name in sorted(names)}


def _probes(inputs: StageInputs) -> Probes:
    """The probes of the known_issues stage; none if it did not run."""
    files = [artifact.path for artifact in inputs.chain(Kind.PROBES)]
    return intermediates.read(files[-1]) if files else Probes({})


def _remarks(inputs: StageInputs, comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """The remarks of the report: those of stages and comparisons, prefixed with the stage, and on harmless values."""
    remarks = [
        (artifact.made_by, serde.decode(tuple[str, ...], artifact.notes.get("remarks", [])))
        for artifact in inputs.artifacts
    ]
    of_stages = (f"{stage}: {line}" for stage, lines in remarks for line in lines)
    of_comparisons = (f"{comparison.stage}: {line}" for comparison in comparisons for line in comparison.remarks)
    return (*of_stages, *dict.fromkeys(of_comparisons), *baked_values.harmless_lines(_baked_values(inputs)))


def _baked_values(inputs: StageInputs) -> tuple[BakedValue, ...]:
    """The lines of the model whose values an exporter fixed."""
    notes = [artifact.notes.get("baked_values", []) for artifact in inputs.artifacts]
    return tuple(line for encoded in notes for line in serde.decode(tuple[BakedValue, ...], encoded))


def _faults(inputs: StageInputs) -> FaultsResult | None:
    """The result of the faults stage; None if it did not run."""
    results = [json.loads(artifact.path.read_text(encoding="utf-8")) for artifact in inputs.chain(Kind.FAULTS)]
    return serde.decode(FaultsResult, results[-1]) if results else None


def _measures(inputs: StageInputs) -> Measures | None:
    """The result of the metric stage; None if it did not run."""
    files = [artifact.path for artifact in inputs.chain(Kind.MEASURES)]
    return serde.read(Measures, files[-1]) if files else None


def _int8(inputs: StageInputs) -> Int8 | None:
    """How the INT8 graphs were made; None if there are none."""
    notes = [artifact.notes["int8"] for artifact in inputs.chain(Kind.INT8_GRAPH)]
    return serde.decode(Int8, notes[-1]) if notes else None


def _quantised(inputs: StageInputs) -> dict[Path, Precision]:
    """The graphs in INT8 and FP8 whose answers as quantised are known."""
    kinds = {Kind.INT8_GRAPH: Precision.INT8, Kind.FP8_GRAPH: Precision.FP8}
    return {
        artifact.path.with_name(file): precision
        for kind, precision in kinds.items()
        for artifact in inputs.chain(kind)
        for file in serde.decode(dict[str, serde.Json], artifact.notes.get(LIMITS, {}))
    }


def _fp8(inputs: StageInputs) -> Fp8 | None:
    """How the FP8 graph was made; None if there is none."""
    notes = [artifact.notes["fp8"] for artifact in inputs.chain(Kind.FP8_GRAPH)]
    return serde.decode(Fp8, notes[-1]) if notes else None


def _fp16_range(inputs: StageInputs, sample: Golden) -> Fp16Range | None:
    """How close the values of the FP16 graph come to the limits of FP16 on the golden inputs; None if there is none."""
    graph = inputs.latest(Kind.GRAPH)
    if graph.made_by.precision is Precision.FP32:
        return None
    ranges = fp16_emulation.node_ranges(graph.path, sample.inputs)
    if not ranges:
        return None  # no node of the main graph computes in FP16, as where all are inside an If
    return verdict.fp16_range(ranges, serde.decode(Weights, graph.notes["weights"]))
