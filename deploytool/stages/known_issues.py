"""Searches the last graph for patterns that TensorRT is known to miscompile, and records probes there."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from deploytool import serde
from deploytool.backends.session import Array, load_backend
from deploytool.data.golden import Arrays
from deploytool.errors import StageFailed
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
    matches = tuple(replace(match, is_probed=match.place.tensor in values) for match in matches)
    return {"hits": serde.encode(matches), "remarks": _remarks(matches)}


def _values(graph: Path, matches: tuple[Match, ...], inputs: Arrays, job: Job) -> Arrays:
    """The values of the probed tensors that the graph contains, without those that do not have the batch first."""
    tensors = list(dict.fromkeys(match.place.tensor for match in matches if match.is_probed))
    start = load_backend(job.options.runner).start

    def answers(names: list[str]) -> Arrays:
        got = intermediates.answers(graph, names, start, inputs, job.options.batch)
        return {name: got[name] for name in names if name in got}

    try:
        return answers(tensors)
    except StageFailed:  # of one tensor among them; the graph itself ran in an earlier stage
        found: dict[str, Array] = {}
        for tensor in tensors:
            with suppress(StageFailed):
                found.update(answers([tensor]))
        return found


def _remarks(matches: tuple[Match, ...]) -> list[str]:
    """One remark for each issue."""
    by_issue: dict[str, list[Match]] = {}
    for match in matches:
        by_issue.setdefault(match.issue, []).append(match)
    return [_remark(places) for places in by_issue.values()]


def _remark(matches: list[Match]) -> str:
    first, others = matches[0], len(matches) - 1
    probes = sum(match.is_probed for match in matches)
    where = f"{first.place.nodes[1]} matches" if not others else f"{first.place.nodes[1]} and {others} more match"
    how = "only the outputs are checked" if not probes else "a probe checks it" if not others else f"probes: {probes}"
    releases = "; ".join(map(str, first.affected))
    workaround = f"; workaround: {first.workaround}" if first.workaround else ""
    return f"{where} the pattern of {first.issue}, reported for {releases}; {how}{workaround}"
