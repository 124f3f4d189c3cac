"""Looks in the graph that ships for what TensorRT is known to compile wrongly, and keeps a probe for each place."""

from __future__ import annotations

from pathlib import Path

import onnx

from deploytool import serde
from deploytool.backends.session import load_backend
from deploytool.data.golden import Arrays
from deploytool.known_issues import catalog
from deploytool.known_issues.catalog import Match
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import intermediates
from deploytool.parity.intermediates import Probes
from deploytool.results.artifact import Kind, Notes
from deploytool.spec import Job


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes what the tensors at the places found should be, on the first golden cases.

    They are taken from the graph before the one that ships: the FP32 graph, for the converter keeps all names.
    """
    *earlier, shipped = inputs.chain(Kind.GRAPH)
    hits = catalog.find(onnx.load(shipped.path).graph)
    before = earlier[-1] if earlier else shipped
    cases = intermediates.first_cases(inputs.golden().inputs)
    kept = _values(before.path, hits, cases, job) if hits else {}
    intermediates.write(out, Probes(kept))
    return {"hits": serde.encode(hits), "remarks": [_remark(hit, kept) for hit in hits]}


def _values(graph: Path, hits: tuple[Match, ...], inputs: Arrays, job: Job) -> Arrays:
    tensors = list(dict.fromkeys(hit.place.tensor for hit in hits))
    answers = intermediates.answers(graph, tensors, load_backend(job.options.runner).start, inputs)
    return {name: answers[name] for name in tensors if name in answers}


def _remark(hit: Match, kept: Arrays) -> str:
    tensor, seen = hit.place.tensor, "; ".join(map(str, hit.affected))
    how = "checked there" if tensor in kept else "checked at the outputs only"
    return f"{hit.place.nodes[1]} has the shape of {hit.issue}, seen with {seen}: {how}"
