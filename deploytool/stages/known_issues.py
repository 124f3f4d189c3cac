"""Searches the last graph for patterns that TensorRT is known to miscompile, and records a probe for each match."""

from __future__ import annotations

from pathlib import Path

from deploytool import serde
from deploytool.backends.session import load_backend
from deploytool.data.golden import Arrays
from deploytool.known_issues import catalog
from deploytool.known_issues.catalog import Match
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import intermediates
from deploytool.parity.intermediates import Probes
from deploytool.results.artifact import Kind, Notes
from deploytool.rewrites.graph import storage
from deploytool.spec import Job


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the expected values of the probes on the first golden cases.

    They come from the graph before the last one, which is in FP32; the FP16 conversion keeps the names of tensors.
    """
    *earlier, last = inputs.chain(Kind.GRAPH)
    matches = catalog.find(storage.load_structure(last.path).graph)
    reference = earlier[-1] if earlier else last
    cases = intermediates.first_cases(inputs.golden().inputs)
    values = _values(reference.path, matches, cases, job) if matches else {}
    intermediates.write(out, Probes(values))
    return {"hits": serde.encode(matches), "remarks": [_remark(match, values) for match in matches]}


def _values(graph: Path, matches: tuple[Match, ...], inputs: Arrays, job: Job) -> Arrays:
    """The values of the matched tensors that the graph contains."""
    tensors = list(dict.fromkeys(match.place.tensor for match in matches))
    answers = intermediates.answers(graph, tensors, load_backend(job.options.runner).start, inputs)
    return {name: answers[name] for name in tensors if name in answers}


def _remark(match: Match, values: Arrays) -> str:
    tensor, releases = match.place.tensor, "; ".join(map(str, match.affected))
    how = "a probe checks it" if tensor in values else "only the outputs are checked"
    return f"{match.place.nodes[1]} matches the pattern of {match.issue}, reported for {releases}; {how}"
