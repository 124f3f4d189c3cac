"""Simplifies the graph with onnxsim, in a limited child process, and proves the result against what it replaces.

Where onnxsim fails or its result does, the run goes on: without the pass that is at fault, or else without onnxsim.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx

from deploytool.backends.session import load_backend
from deploytool.data.golden import Arrays
from deploytool.errors import ParityFailed, ResourceExhausted, StageFailed
from deploytool.host import disk, workers
from deploytool.host.process import run_limited
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import metrics, reference_cases
from deploytool.parity.reference_cases import ReferenceCases
from deploytool.parity.replay import replay
from deploytool.results.artifact import Kind, Notes
from deploytool.results.report import Tolerance
from deploytool.rewrites import simplify_worker
from deploytool.rewrites.graph import free_sizes
from deploytool.spec import Job, Stage
from deploytool.stages.registry import STAGES

_SECONDS, _SEARCH_SECONDS = 300.0, 300.0  # of a run of onnxsim, and of all that search a culprit
_SHORTEST_SECONDS, _PATIENCE = 10.0, 10.0  # a run of the search hangs after that long, or so many times the idle run's
_MOST = 3  # passes that are left out before onnxsim itself is

_ALL = ("onnxsim",)

Attempt = Callable[[Sequence[str], float], float]


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the simplified graph, or the graph as it was where nothing that onnxsim makes of it holds.

    Raises StageFailed only for a graph that does not run as it was.
    """
    before, sample = inputs.latest(Kind.GRAPH).path, inputs.golden()
    asked = _questions(job, before, sample.inputs)
    tolerance = metrics.tolerances(sample.noise, job.options.tolerance).fp32

    def attempt(off: Sequence[str], seconds: float) -> float:
        _simplify(before, out, off, seconds)
        return _prove(job.options.runner, out, asked, tolerance)

    left_out: tuple[str, ...] = ()
    remarks: list[str] = []
    try:
        error = attempt((), _SECONDS)
    except (StageFailed, ParityFailed) as trouble:
        left_out, errors = _search(attempt)
        if left_out == _ALL:
            disk.write(out, before.read_bytes())
            errors = [_prove(job.options.runner, out, asked, tolerance)]
        error = errors[-1]
        remarks.append(f"{trouble}: went on without {_named(left_out)}")
    nodes, nodes_before = (len(onnx.load(path).graph.node) for path in (out, before))
    counts = {"nodes": nodes, "nodes_before": nodes_before, "max_error": error}
    return {**counts, "left_out": list(left_out), "remarks": remarks}


def _questions(job: Job, before: Path, inputs: Arrays) -> tuple[ReferenceCases, ...]:
    """What the graph before answers: to all golden cases, in other batches, and at the corners of free sizes."""
    name = "the graph before"
    with load_backend(job.options.runner).start(before) as original:
        golden_cases = ReferenceCases(name, "golden cases", inputs, replay(original, inputs))
        return (golden_cases, *reference_cases.make(job.model, job.options.sizes, inputs, original, name))


def _simplify(before: Path, out: Path, off: Sequence[str], seconds: float) -> None:
    """Writes what onnxsim makes of a graph with the passes and steps in `off` left out."""
    task, command = [str(before), str(out), list(off)], workers.command(STAGES[Stage.SIMPLIFY].worker)
    memory, writes = workers.MEMORY_GIB, workers.MAX_FILE_BYTES
    run_limited(
        command, what="onnxsim", seconds=seconds, gibibytes=memory, max_file_bytes=writes, task=task, output=out
    )
    try:
        graph, plain = onnx.load(out), onnx.load(before)
        del graph.metadata_props[:]
        graph.producer_name, graph.producer_version = plain.producer_name, plain.producer_version
        onnx.checker.check_model(graph, full_check=True)
        if lost := free_sizes.fixed_axis(free_sizes.free_axes(plain.graph), graph.graph):
            raise ValueError(lost)
        disk.write(out, graph.SerializeToString(deterministic=True))
    except ResourceExhausted:
        raise
    except Exception as error:  # the file is whatever onnxsim left, and onnx's exceptions share no base class
        said = " ".join(str(error).replace(str(out), "it").split())
        raise StageFailed(f"onnxsim wrote no sound graph: {said}", "report it to onnxsim") from error


def _prove(runner: str, graph: Path, asked: Sequence[ReferenceCases], tolerance: Tolerance) -> float:
    """The error of a graph's answers; raises ParityFailed if they are others, StageFailed if it gives none."""
    try:
        with load_backend(runner).start(graph) as session:
            checks = reference_cases.check(session, asked, tolerance)
    except StageFailed as error:
        said = " ".join(str(error).replace(str(graph), "it").split())
        raise StageFailed(f"what onnxsim wrote does not run: {said}", error.remedy) from error
    for check in checks:
        if check.broken:
            raise ParityFailed(
                f"onnxsim changed what the graph computes (error {check.parity.max_error:.1e} against {check.against})",
                f"report it to onnxsim with the graph of the {Stage.EXPORT} stage",
            )
    return max(check.parity.max_error for check in checks)


def _search(attempt: Attempt) -> tuple[tuple[str, ...], list[float]]:
    """What must be left out for the result to hold, and the errors of the runs that held, the last one's graph written.

    A run hangs after `_PATIENCE` times what onnxsim takes with everything left out.
    """
    deadline, patience, errors = time.monotonic() + _SEARCH_SECONDS, _SECONDS, list[float]()

    def holds(off: Sequence[str]) -> bool:
        nonlocal patience
        begun = time.monotonic()
        if begun >= deadline:
            return False
        try:
            errors.append(attempt(off, min(patience, deadline - begun)))
        except (StageFailed, ParityFailed):
            return False
        if len(errors) == 1:
            patience = max(_SHORTEST_SECONDS, _PATIENCE * (time.monotonic() - begun))
        return True

    found = bisect((*_passes(), simplify_worker.SHAPES, simplify_worker.FOLDING), holds, _MOST)
    return (_ALL if found is None else found), errors


def bisect(switches: Sequence[str], holds: Callable[[Sequence[str]], bool], most: int) -> tuple[str, ...] | None:
    """A set of at most `most` switches with which off the thing holds, each of them needed; None if there is none.

    `holds(off)` tries; it is taken not to hold with none off, and to hold with more off wherever it holds with fewer.
    The answer is tried itself, so where that is not so, something else is found or nothing, and never what does not
    hold. Of several answers it is the one whose last switch comes first. Each culprit takes about log2(n) tries.
    """
    off: tuple[str, ...] = ()
    left = tuple(switches)
    if not holds(left):
        return None
    while len(off) < most and left:
        few, many = 0, len(left)  # it does not hold with this many of the first off, and does with that many
        while many - few > 1:
            middle = (few + many) // 2
            few, many = (few, middle) if holds((*left[:middle], *off)) else (middle, many)
        off, left = (left[many - 1], *off), left[: many - 1]
        if holds(off):
            return off
    return None


def _passes() -> list[str]:
    """The names of onnxsim's passes; none where it does not tell."""
    try:
        command = workers.command(STAGES[Stage.SIMPLIFY].worker, simplify_worker.LIST_PASSES)
        said = run_limited(command, what="onnxsim", seconds=_SECONDS, gibibytes=workers.MEMORY_GIB)
    except StageFailed:
        return []
    return said.split()


def _named(left_out: tuple[str, ...]) -> str:
    if left_out == _ALL:
        return "onnxsim"
    steps = (simplify_worker.SHAPES, simplify_worker.FOLDING)
    return "its " + " and ".join(name if name in steps else f"pass {name}" for name in left_out)
