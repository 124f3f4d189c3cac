"""Plants faults in the last graph and counts those that the checks on the golden cases detect."""

from __future__ import annotations

from pathlib import Path

from deploytool import serde
from deploytool.faults import run
from deploytool.loading.stage_inputs import StageInputs
from deploytool.results.artifact import Kind, Notes, engine_graph
from deploytool.results.faults import CASES
from deploytool.spec import Job, Precision

_FRESH = 8  # additional cases on which undetected faults are tried


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the result to `out`, and beside it the fresh cases that detect faults which the golden cases miss."""
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
    result = run.run(subject, job.options.faults, job.options.seed, job.watch)
    out.write_text(serde.text(result), encoding="utf-8")
    if result.helpful:
        run.write_helpful_cases(out.with_name(CASES), subject, result)
    return {"planted": sum(family.planted for family in result.families), "missed": len(result.missed)}
