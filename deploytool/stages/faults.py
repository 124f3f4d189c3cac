"""Proves the checks of the run: plants faults in the graph that ships, and counts what the golden cases catch."""

from __future__ import annotations

from pathlib import Path

from deploytool import serde
from deploytool.faults import run
from deploytool.loading.stage_inputs import StageInputs
from deploytool.results.artifact import Kind, Notes, engine_graph
from deploytool.results.faults import CASES
from deploytool.spec import Job, Precision

_FRESH = 8  # cases that faults which were not caught are tried on


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the proof, and beside it the fresh cases that would have caught what the golden ones missed."""
    before, graph = inputs.chain(Kind.GRAPH)[-2:]
    subject = run.subject(
        inputs.latest(Kind.WEIGHTS).path,
        inputs.latest(Kind.GOLDEN).path,
        engine_graph(before.path),
        graph.path,
        half=graph.made_by.precision is Precision.FP16,
        wanted=job.options.tolerance,
        fresh=_FRESH,
    )
    proof = run.run(subject, job.options.faults, job.options.seed, job.watch)
    out.write_text(serde.text(proof), encoding="utf-8")
    if proof.helpful:
        run.write_helpful_cases(out.with_name(CASES), subject, proof)
    return {"planted": sum(family.planted for family in proof.families), "missed": len(proof.missed)}
