"""Runs a sweep: makes every cell that an earlier command did not finish, and writes sweep.json and the page."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploytool.errors import BadInput, DeployError, MissingBackend
from deploytool.host import exception_text, machine, memory, memory_estimate, process
from deploytool.loading import catalog, factory
from deploytool.pipeline import options as checks
from deploytool.pipeline.export_options import ExportOptions
from deploytool.results import sweep as results
from deploytool.results.sweep import Cell, CellResult, CellState, Sweep
from deploytool.results.sweep_events import Follow, Remarked, SweepStarted, ignore
from deploytool.spec import Precision, SourceKind
from deploytool.sweeps import keys, serial, shared, store
from deploytool.sweeps import table as sweep_table
from deploytool.sweeps.cluster_options import ClusterOptions
from deploytool.sweeps.job import Answer, Job, Work
from deploytool.sweeps.pages import Pages
from deploytool.sweeps.shared import Shares
from deploytool.sweeps.table import SweepTable

_CHILD = "deploytool.sweeps.child"
_USUAL_BYTES = 100 << 20  # of weights, where nothing is known
_MACS_PER_BYTE = 25.0  # of weights in FP32, as in convolutional networks of the zoo


@dataclass(frozen=True, kw_only=True)
class Request:
    """A sweep: its table, the options that all cells share, the folder, and where the cells run.

    `child` is the module that makes a cell in a process of its own.
    """

    table: SweepTable
    options: ExportOptions
    out: Path
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    child: str = _CHILD


@exception_text.as_deploy_errors()
def run(request: Request, follow: Follow = ignore) -> Sweep:
    """Makes every cell that is not finished, writes sweep.json and its page, and returns it; a failed cell is a result.

    Raises BadInput for an invalid table and for a folder in which another sweep works, MissingBackend without the extra
    `sweep` and for workers with other versions, and Unreachable if the scheduler is gone. What was finished is kept.
    """
    request.cluster.check()
    checks.declared(request.options)
    checks.combinations(request.options)
    cells = sweep_table.cells(request.table, request.options, lambda text: follow(Remarked(text)))
    _check_calibration(cells, request.options)
    keys.forget_digests()
    out = checks.run_folder(request.out)
    with store.locked(out) as nonce:
        made = _Sweep(request, cells, out.absolute(), nonce, follow)
        made.reuse()
        if made.left:
            made.make()
        return made.write(ended=True)


def _check_calibration(cells: Sequence[Cell], options: ExportOptions) -> None:
    """Raises BadInput if an FP16 cell lacks data for INT8 or FP8; a given graph may be quantised, and need none."""
    if lacking := checks.uncalibrated(options):
        for cell in cells:
            if cell.precision is Precision.FP16 and factory.kind(cell.model) is not SourceKind.GRAPH:
                problem = f"precision {lacking[0]} needs inputs to measure the ranges of values on, and none are given"
                remedy = 'write calibration = "DIR" below [export]: a folder of photographs other than those of `data`'
                raise BadInput(problem, remedy)


class _Sweep:
    """A sweep that is being made: the result of every cell so far."""

    def __init__(self, request: Request, cells: Sequence[Cell], out: Path, nonce: str, follow: Follow) -> None:
        self._request, self._out, self._nonce, self._follow = request, out, nonce, follow
        self._cells = {cell.name: cell for cell in cells}
        self._keys = {cell.name: keys.cell_key(cell, self._options(cell)) for cell in cells}
        self._results = {name: CellResult(cell, CellState.PENDING, name) for name, cell in self._cells.items()}
        self._started, self._clock, self._pages = time.time(), time.monotonic(), Pages(out)
        self._reused, self._workers, self._work_s = 0, 0, 0.0

    @property
    def left(self) -> list[Cell]:
        """The cells without a result."""
        return [self._cells[name] for name, result in self._results.items() if not result.finished]

    def reuse(self) -> None:
        """Takes the results of an earlier command that are still valid."""
        for name, key in self._keys.items():
            if result := store.finished(self._out / name, key):
                self._results[name] = result
                self._reused += 1

    def make(self) -> None:
        """Makes the cells that are left, on a cluster."""
        if missing := [name for name in ("distributed", "dask") if importlib.util.find_spec(name) is None]:
            raise MissingBackend(f"{missing[0]} is not installed", "pip install 'deploytool[sweep]'")
        shares = shared.plan(self.left, self._request.options)
        works = {work.key: work for work in self._works(shares)}
        workers = self._request.cluster.workers or default_workers(self.left, self._request.options)
        self.write(ended=False)
        try:
            self._make_on(workers, works)
        except DeployError:
            with suppress(DeployError, OSError):  # a full disk, which may be the error itself
                self.write(ended=True)
            raise

    def _make_on(self, workers: int, works: Mapping[str, Work]) -> None:
        """Does the works on a cluster."""
        from deploytool.sweeps import cluster, loop

        with cluster.connected(self._request.cluster, workers, self._out) as connected:
            loop.check_versions(connected)
            self._workers = len(connected.workers())
            kinds = [loop.kind(cell) for cell in self.left]
            self._follow(SweepStarted(kinds, self._reused, self._workers, connected.dashboard))
            try:
                for result in loop.Loop(connected, works, self._out, self._request.cluster.wait_s, self._follow).run():
                    self._take(result)
                    self._workers = max(self._workers, len(connected.workers()))
            finally:
                if connected.is_embedded:
                    process.end_all()  # otherwise the cluster would wait for them

    def _works(self, shares: Shares) -> Iterator[Work]:
        """Every job that is left: shared stages, and cells after them."""
        template = Job(
            key="",
            root=str(self._out),
            nonce=self._nonce,
            cwd=str(Path.cwd()),
            folder="",
            after="",
            model="",
            options={},
            stages=(),
            cell=None,
            timed=False,
            share=1,
            is_embedded=not (self._request.cluster.scheduler or self._request.cluster.slurm),
            versions=keys.versions(),
            child=self._request.child,
        )
        folders = {key: group.folder for key, group in shares.groups.items()}
        names = {key: f"{self._out}/{folder}" for key, folder in folders.items()}
        for key, group in shares.groups.items():
            job = replace(template, key=key, folder=group.folder, after=folders.get(group.after, ""))
            job = replace(job, model=group.model, options=serial.encode(group.options), stages=group.stages)
            yield Work(group.name, job, names.get(group.after, ""))
        for cell in sorted(self.left, key=self._work, reverse=True):  # the longest first: the workers end together
            options = self._options(cell)
            first = shares.first.get(cell.name, "")
            job = replace(template, key=self._keys[cell.name], folder=cell.name, after=folders.get(first, ""))
            job = replace(job, model=cell.model, options=serial.encode(options), cell=cell)
            yield Work(cell.name, replace(job, timed=shared.is_timed(options)), names.get(first, ""))

    def _work(self, cell: Cell) -> float:
        """About how long a cell takes: the published multiply-accumulates of its model, or a guess from its weights."""
        if keys.is_catalog(cell.model):
            macs = catalog.find(cell.model, (), self._request.options.arguments or {}).macs
            if macs is not None:
                return float(macs)
        return _MACS_PER_BYTE * _weights_bytes(cell, self._request.options)

    def _options(self, cell: Cell) -> ExportOptions:
        return shared.options_of(cell, self._request.options)

    def _take(self, result: Answer | CellResult) -> None:
        """Takes the result of a cell, or the end of shared stages."""
        if isinstance(result, CellResult):
            self._results[result.cell.name] = result
        if result.started is not None and result.ended is not None:
            self._work_s += result.ended - result.started
        if self._pages.is_due:
            self.write(ended=False)

    def write(self, *, ended: bool) -> Sweep:
        """Writes sweep.json and the page of the sweep as it is now, and returns it."""
        sweep = Sweep(
            results.SCHEMA,
            keys.versions(),
            serial.encode(self._request.options),
            tuple(self._results.values()),
            self._started,
            round(time.monotonic() - self._clock, 3),
            round(self._work_s, 3),
            self._workers,
            self._reused,
            ended,
        )
        self._pages.write(sweep)
        return sweep


def default_workers(cells: Sequence[Cell], options: ExportOptions) -> int:
    """How many cells this machine bears at a time: one for each processor, and no more than its memory allows."""
    available = memory.available_bytes()
    processors = machine.processors()
    if available is None:
        return min(processors, len(cells))
    largest = max(_weights_bytes(cell, options) for cell in cells)
    needed = memory_estimate.needed(largest, faults=shared.is_timed(shared.options_of(cells[0], options)))
    return max(1, min(processors, len(cells), int(available / needed)))


def _weights_bytes(cell: Cell, options: ExportOptions) -> float:
    """The bytes of a cell's weights: of its file, or as published for the model; otherwise a usual size."""
    if cell.weights:
        return float(Path(cell.weights).stat().st_size)
    if not keys.is_catalog(cell.model):
        return float(max(_USUAL_BYTES, *(path.stat().st_size for path in keys.model_files(cell.model)), 0))
    parameters = catalog.find(cell.model, (), options.arguments or {}).parameters
    return 4.0 * parameters if parameters else float(_USUAL_BYTES)
