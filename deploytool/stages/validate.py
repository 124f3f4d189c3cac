"""Compares every artifact with the one before it and with the FP64 source, and measures its speed against eager."""

from __future__ import annotations

import json
from pathlib import Path

from deploytool import serde
from deploytool.backends import eager, fp16_emulation
from deploytool.benchmark import quick
from deploytool.data.golden import Golden
from deploytool.host import machine
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import checks, intermediates, metrics, noise
from deploytool.parity.intermediates import Probes
from deploytool.parity.replay import replay
from deploytool.parity.shape_corners import Corner, draw
from deploytool.results import baked_values, report, verdict
from deploytool.results.artifact import Kind, Notes
from deploytool.results.baked_values import BakedValue, Origin
from deploytool.results.faults import FaultsResult
from deploytool.results.report import Comparison, Fp16Range, Report, Weights
from deploytool.spec import BATCH, Job, Precision, Range, Stage
from deploytool.stages.registry import STAGES
from deploytool.targets import DISTRIBUTIONS

_LIBRARIES = ("deploytool", "torch", "onnx", "onnxsim", "onnxruntime", "onnxruntime-gpu", *DISTRIBUTIONS)


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the report; a failed check stands in the report and is no error: the front door decides what it means."""
    recorded, source = inputs.latest(Kind.GOLDEN), inputs.source()
    sample = inputs.golden()
    devices, engines = eager.devices(), checks.engine_comparisons(inputs)
    steps = (
        [step for device in devices for step in checks.graph_comparisons(device, job, inputs)]
        + checks.fp16_comparisons(inputs)
        + engines
    )
    first = checks.source_comparison(recorded, sample, metrics.tolerances(sample.noise, job.options.tolerance))
    extremes, origins = (
        _extremes(job, source.weights, sample, _fixed(inputs)),
        checks.reference_answers(job, inputs, sample),
    )
    at = noise.NoiseAtSizes(source.weights, job.options.tolerance, sample.noise)
    judged = tuple(checks.judge(steps, origins, sample, extremes, _probes(inputs), job, at.edge, at))
    timed = checks.graph_comparisons(devices[-1], job, inputs) + engines
    found, rounds = quick.measure(source.weights, timed, sample.inputs, job, devices[-1])
    written = Report(
        schema=report.SCHEMA,
        model=job.model.name,
        device=machine.gpus()[0].name if "cuda" in devices else machine.cpu(),
        batch=job.options.batch.smallest,
        rounds=rounds,
        images=len(sample.labels),
        margin=serde.decode(float, recorded.notes["smallest_margin"]),
        data=job.options.data.path if job.options.data else None,
        comparisons=(first, *judged),
        speeds=found,
        gate=verdict.judge_gate(job.options.min_speedup, found, engine=bool(inputs.chain(Kind.ENGINE))),
        fp16_range=_reach(inputs, sample),
        faults=_proof(inputs),
        engines=checks.build_notes(inputs),
        targets=job.options.targets,
        remarks=(*_remarks(inputs), *_seen(judged), *baked_values.harmless_lines(_fixed(inputs))),
        versions={name: version for name in _LIBRARIES if (version := machine.version(name))},
        options=_choices(job, inputs),
        baked_values=_fixed(inputs),
    )
    report.write(out, written)
    serves = {"free": {**job.options.sizes, BATCH: job.options.batch}, "io": job.options.io}
    return {
        "broken": list(verdict.failed_lines(written)),
        "unmeasured": list(verdict.unmeasured_lines(written)),
        "serves": serde.encode(serves),
    }


def _extremes(job: Job, weights: Path, sample: Golden, lines: tuple[BakedValue, ...]) -> list[Corner]:
    """The corners of the free sizes with the eager model's answers; where there are none, no model is made.

    Where an exporter fixed a line by sizes, the largest batch is a corner too.
    """
    by_sizes, most = any(line.origin is Origin.SHAPE for line in lines), job.options.batch.largest
    if not job.options.sizes and not by_sizes:
        return []
    with eager.start(weights) as source:
        found = draw(job.model, job.options.sizes, source)
        if by_sizes:
            many = checks.first_cases(sample.inputs, most)
            at_once, answers = f"{most} at once", replay(source, many, Range(most, most, most))
            found.append(Corner(f"eager, {at_once}", at_once, many, answers))
    return found


def _choices(job: Job, inputs: StageInputs) -> dict[str, serde.Json]:
    """The options that the stages before and this one read; targets and engines have their own place in the report."""
    verbs = (*(artifact.made_by for artifact in inputs.artifacts), Stage.VALIDATE)
    names = {name for verb in verbs for name in STAGES[verb].options} - {"targets", "engines"}
    return {name: serde.encode(getattr(job.options, name)) for name in sorted(names)}


def _probes(inputs: StageInputs) -> Probes:
    """What the lint kept, if it found anything."""
    files = [artifact.path for artifact in inputs.chain(Kind.PROBES)]
    return intermediates.read(files[-1]) if files else Probes({})


def _remarks(inputs: StageInputs) -> tuple[str, ...]:
    """What the stages before want to be known, each line with its stage."""
    said = [(each.made_by, serde.decode(tuple[str, ...], each.notes.get("remarks", []))) for each in inputs.artifacts]
    return tuple(f"{verb}: {line}" for verb, lines in said for line in lines)


def _seen(judged: tuple[Comparison, ...]) -> tuple[str, ...]:
    """What judging the comparisons showed that is to be known."""
    return tuple(dict.fromkeys(f"{comparison.stage}: {line}" for comparison in judged for line in comparison.remarks))


def _fixed(inputs: StageInputs) -> tuple[BakedValue, ...]:
    """What the stages say of lines of the model that an exporter fixed."""
    notes = [each.notes.get("baked_values", []) for each in inputs.artifacts]
    return tuple(line for each in notes for line in serde.decode(tuple[BakedValue, ...], each))


def _proof(inputs: StageInputs) -> FaultsResult | None:
    """What the faults stage found, where it stood in the recipe."""
    found = [json.loads(each.path.read_text(encoding="utf-8")) for each in inputs.chain(Kind.FAULTS)]
    return serde.decode(FaultsResult, found[-1]) if found else None


def _reach(inputs: StageInputs, sample: Golden) -> Fp16Range | None:
    """How near the values of the FP16 graph come to the ends of FP16, on the golden inputs."""
    halved = inputs.latest(Kind.GRAPH)
    if halved.made_by.precision is Precision.FP32:
        return None
    return verdict.fp16_range(
        fp16_emulation.node_ranges(halved.path, sample.inputs), serde.decode(Weights, halved.notes["weights"])
    )
