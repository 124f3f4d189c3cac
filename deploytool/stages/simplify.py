"""Simplifies the graph with onnxsim in a limited child process, and checks the result against the graph before.

If onnxsim or its result fails, the run continues without the passes that cause the failure, or without onnxsim.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deploytool.backends.session import load_backend
from deploytool.data.golden import Arrays
from deploytool.errors import ParityFailed, ResourceExhausted, StageFailed
from deploytool.host import workers
from deploytool.host.process import run_limited
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import metrics, reference_cases
from deploytool.parity.reference_cases import ReferenceCases
from deploytool.parity.replay import replay
from deploytool.results.artifact import Kind, Notes
from deploytool.results.report import Tolerance
from deploytool.rewrites import simplify_worker
from deploytool.rewrites.graph import free_sizes, storage, weights
from deploytool.spec import Job, Stage
from deploytool.stages.registry import STAGES

_SECONDS, _SEARCH_SECONDS = 300.0, 300.0  # time limits of one run of onnxsim, and of the search for failing passes
# a run of the search is stopped after _TIME_FACTOR times the run with all passes off, but not before _MIN_SECONDS
_MIN_SECONDS, _TIME_FACTOR = 10.0, 10.0
_MAX_LEFT_OUT = 3  # passes; if more would have to be left out, onnxsim is left out

_ALL = ("onnxsim",)
_LARGE = "continued without onnxsim, which cannot hold a graph beyond 2 GB"

Attempt = Callable[[Sequence[str], float], float]


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the simplified graph, or the graph before if no result of onnxsim passes the check.

    Raises StageFailed only if the graph before does not run.
    """
    before, sample = inputs.latest(Kind.GRAPH).path, inputs.golden()
    graph = storage.load(before)
    if weights.is_large(graph):
        storage.copy(before, out)
        nodes = len(graph.graph.node)
        return {"nodes": nodes, "nodes_before": nodes, "max_error": 0.0, "left_out": list(_ALL), "remarks": [_LARGE]}
    del graph
    references = _references(job, before, sample.inputs)
    tolerance = metrics.tolerances(sample.noise, job.options.tolerance).fp32

    def attempt(off: Sequence[str], seconds: float) -> float:
        _simplify(before, out, off, seconds)
        return _check(job.options.runner, out, references, tolerance)

    left_out: tuple[str, ...] = ()
    remarks: list[str] = []
    try:
        error = attempt((), _SECONDS)
    except (StageFailed, ParityFailed) as failure:
        left_out, errors = _search(attempt)
        if left_out == _ALL:
            storage.copy(before, out)
            errors = [_check(job.options.runner, out, references, tolerance)]
        error = errors[-1]
        remarks.append(f"{failure}; continued without {_description(left_out)}")
    nodes, nodes_before = (len(storage.load_structure(path).graph.node) for path in (out, before))
    counts = {"nodes": nodes, "nodes_before": nodes_before, "max_error": error}
    return {**counts, "left_out": list(left_out), "remarks": remarks}


def _references(job: Job, before: Path, inputs: Arrays) -> tuple[ReferenceCases, ...]:
    """The answers of the graph before to the golden cases, at other batch sizes and at the corners of dynamic sizes."""
    name = "the exported graph"
    with load_backend(job.options.runner).start(before) as original:
        golden_cases = ReferenceCases(name, "golden cases", inputs, replay(original, inputs))
        return (golden_cases, *reference_cases.make(job.model, job.options.sizes, golden_cases, original, name))


def _simplify(before: Path, out: Path, off: Sequence[str], seconds: float) -> None:
    """Writes the result of onnxsim without the passes and steps in `off`.

    Raises StageFailed if onnxsim fails or its result is invalid, ResourceExhausted if the disk is full.
    """
    task, command = [str(before), str(out), list(off)], workers.command(STAGES[Stage.SIMPLIFY].worker)
    memory, size = workers.MEMORY_GIB, workers.MAX_FILE_BYTES
    run_limited(command, what="onnxsim", seconds=seconds, gibibytes=memory, max_file_bytes=size, task=task, output=out)
    try:
        graph, original = storage.load(out), storage.load(before)
        del graph.metadata_props[:]
        graph.producer_name, graph.producer_version = original.producer_name, original.producer_version
        weights.check(graph)
        if lost := free_sizes.fixed_axis(free_sizes.free_axes(original.graph), graph.graph):
            raise ValueError(lost)
        storage.save(graph, out)
    except ResourceExhausted:
        raise
    except Exception as error:  # the exceptions of onnx have no common base class
        message = " ".join(str(error).replace(str(out), "it").split())
        raise StageFailed(f"onnxsim wrote an invalid graph: {message}", "report it to onnxsim") from error


def _check(runner: str, graph: Path, references: Sequence[ReferenceCases], tolerance: Tolerance) -> float:
    """The largest error of a graph; raises ParityFailed if a check fails, StageFailed if the graph does not run."""
    try:
        with load_backend(runner).start(graph) as session:
            checks = reference_cases.check(session, references, tolerance)
    except StageFailed as error:
        message = " ".join(str(error).replace(str(graph), "it").split())
        raise StageFailed(f"the graph from onnxsim does not run: {message}", error.remedy) from error
    for check in checks:
        if check.broken:
            deviation = f"error {check.parity.max_error:.1e} against {check.against}"
            raise ParityFailed(
                f"onnxsim changed the outputs of the graph ({deviation})",
                f"report it to onnxsim with the graph of the {Stage.EXPORT} stage",
            )
    return max(check.parity.max_error for check in checks)


def _search(attempt: Attempt) -> tuple[tuple[str, ...], list[float]]:
    """The passes and steps that must be left out, and the errors of all successful runs; the last wrote the graph."""
    deadline, limit, errors = time.monotonic() + _SEARCH_SECONDS, _SECONDS, list[float]()

    def passes(off: Sequence[str]) -> bool:
        nonlocal limit
        start = time.monotonic()
        if start >= deadline:
            return False
        try:
            errors.append(attempt(off, min(limit, deadline - start)))
        except (StageFailed, ParityFailed):
            return False
        if len(errors) == 1:  # the first success is the run with everything off
            limit = max(_MIN_SECONDS, _TIME_FACTOR * (time.monotonic() - start))
        return True

    left_out = bisect((*_passes(), simplify_worker.SHAPES, simplify_worker.FOLDING), passes, _MAX_LEFT_OUT)
    return (_ALL if left_out is None else left_out), errors


def bisect(switches: Sequence[str], passes: Callable[[Sequence[str]], bool], most: int) -> tuple[str, ...] | None:
    """A minimal set of at most `most` switches that must be off for `passes(off)` to be true; None if there is none.

    Assumes that `passes(())` is false and that `passes` is monotone: true with more off wherever true with fewer. The
    returned set was itself tried, so if the assumption is wrong the result may not be minimal or may be None, but
    always passes. Of several sets, returns the one whose last switch comes first. Takes about log2(n) calls for each
    switch of the result.
    """
    off: tuple[str, ...] = ()
    left = tuple(switches)
    if not passes(left):
        return None
    while len(off) < most and left:
        low, high = 0, len(left)  # fails with the first `low` switches off, passes with the first `high`
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if passes((*left[:middle], *off)) else (middle, high)
        off, left = (left[high - 1], *off), left[: high - 1]
        if passes(off):
            return off
    return None


def _passes() -> list[str]:
    """The names of the passes of onnxsim; none if onnxsim cannot list them."""
    try:
        command = workers.command(STAGES[Stage.SIMPLIFY].worker, simplify_worker.LIST_PASSES)
        output = run_limited(command, what="onnxsim", seconds=_SECONDS, gibibytes=workers.MEMORY_GIB)
    except StageFailed:
        return []
    return output.split()


def _description(left_out: tuple[str, ...]) -> str:
    if left_out == _ALL:
        return "onnxsim"
    steps = (simplify_worker.SHAPES, simplify_worker.FOLDING)
    return " and ".join(name if name in steps else f"pass {name}" for name in left_out)
