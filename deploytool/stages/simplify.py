"""Simplifies the graph with onnxsim, in a limited child process, and proves the result against what it replaces."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx

from deploytool import backends, golden
from deploytool.artifact import Given, Kind, Notes
from deploytool.child import run_limited
from deploytool.errors import ParityFailed
from deploytool.measure import parity
from deploytool.measure.replay import replay
from deploytool.spec import Job

_SECONDS, _GIBIBYTES = 300.0, 8.0

# onnxsim imports torch where it finds it, and does not need it; `certify` and `check_n` prove less than we do below.
_PROGRAM = """
import sys
sys.path.remove("")
sys.modules["torch"] = None
import onnx, onnxsim
simple, _ = onnxsim.simplify(onnx.load(sys.argv[1]), check_n=0, certify=False)
onnx.save(simple, sys.argv[2])
"""


def make(job: Job, out: Path, given: Given) -> Notes:
    """Writes the simplified graph; raises StageFailed if onnxsim fails, ParityFailed if its result differs."""
    before = given.latest(Kind.GRAPH).path
    run_limited(
        [sys.executable, "-c", _PROGRAM, str(before), str(out)], what="onnxsim", seconds=_SECONDS, gibibytes=_GIBIBYTES
    )
    graph, plain = onnx.load(out), onnx.load(before)
    del graph.metadata_props[:]
    graph.producer_name, graph.producer_version = plain.producer_name, plain.producer_version
    onnx.checker.check_model(graph, full_check=True)
    out.write_bytes(graph.SerializeToString(deterministic=True))
    error = _prove(job, out, before, given.latest(Kind.GOLDEN).path)
    return {"nodes": len(graph.graph.node), "nodes_before": len(plain.graph.node), "max_error": error}


def _prove(job: Job, after: Path, before: Path, recorded: Path) -> float:
    sample, backend = golden.read(recorded), backends.load(job.options.runner)
    tolerance = parity.tolerances(sample.noise, job.options.tolerance).fp32
    with backend.start(before) as original, backend.start(after) as simplified:
        expected, got = replay(original, sample.inputs), replay(simplified, sample.inputs)
    found = parity.check(got, expected, "the graph before", tolerance)
    if found.broken:
        raise ParityFailed(
            f"onnxsim changed what the graph computes: error {found.parity.max_error:.1e} of the largest output",
            "report it to onnxsim with the graph of the translate stage",
        )
    return found.parity.max_error
