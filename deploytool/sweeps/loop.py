"""Gives jobs to workers and collects their answers, until every cell has a result."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from deploytool import serde
from deploytool.errors import DeployError, MissingBackend, Unreachable
from deploytool.results.sweep import Cell, CellResult, CellState
from deploytool.results.sweep_events import (
    CellEnded,
    CellReturned,
    CellStarted,
    Follow,
    Kind,
    SharedEnded,
    SharedStarted,
)
from deploytool.sweeps import job as sweep_job
from deploytool.sweeps import keys, local_files, store, summary, transfer, worker
from deploytool.sweeps.cluster import Cluster, Done, WorkerInfo
from deploytool.sweeps.job import Answer, Ending, FileEntry, Work

_POLL_S = 1.0
_MAX_ATTEMPTS = 8  # of one job whose worker or scheduler disappeared
_REMEDY_LOST = "run the same command again; more memory for a worker may help: fewer --workers"


class _Line:
    """The work that waits: what is ready, untimed and timed, and what waits for shared stages."""

    def __init__(self, works: Iterable[Work]) -> None:
        self.untimed: deque[Work] = deque()
        self.timed: deque[Work] = deque()
        self._blocked: dict[str, list[Work]] = {}
        for work in works:
            if work.after:
                self._blocked.setdefault(work.after, []).append(work)
            else:
                self._ready(work).append(work)

    def __bool__(self) -> bool:
        return bool(self.untimed or self.timed or self._blocked)

    def first(self, work: Work) -> None:
        """Puts work first in the line."""
        self._ready(work).appendleft(work)

    def release(self, key: str) -> list[Work]:
        """Makes the work ready that waited for these shared stages, and returns it."""
        released = self._blocked.pop(key, [])
        for work in released:
            self._ready(work).append(work)
        return released

    def drop(self, key: str) -> list[Work]:
        """Takes out the work that waited for these shared stages."""
        return self._blocked.pop(key, [])

    def _ready(self, work: Work) -> deque[Work]:
        return self.timed if work.job.timed else self.untimed


class Loop:
    """The work of a sweep on a cluster.

    `follow` is told what begins and ends. Untimed work comes first, one
    job for each worker; then timed work, one job for each machine, which nothing else of the sweep runs beside.
    """

    def __init__(
        self,
        cluster: Cluster,
        works: Mapping[str, Work],
        out: Path,
        wait_s: float,
        follow: Follow,
    ) -> None:
        self._cluster, self._works, self._out, self._wait_s, self._follow = cluster, works, out, wait_s, follow
        self._line = _Line(works.values())
        self._running: dict[str, WorkerInfo] = {}  # the worker of each running work, by its key
        self._attempts: dict[str, int] = {}
        self._ended: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._remote = False  # whether a worker does not see the client's disk
        self._last_worker = time.monotonic()
        self._current: dict[str, str] = {}  # Dask's key of running work: its own key

    def run(self) -> Iterator[Answer | CellResult]:
        """Yields every finished work: shared stages with their answer, cells with their result.

        Raises MissingBackend for a worker with other versions, and Unreachable if the scheduler or all workers are
        gone.
        """
        while self._line or self._running:
            self._assign(self._cluster.workers())
            try:
                done = self._ended.get(timeout=_POLL_S)
            except queue.Empty:
                self._cluster.check()
                continue
            yield from self._end(done)

    def _assign(self, workers: tuple[WorkerInfo, ...]) -> None:
        """Gives waiting work to idle workers."""
        if workers:
            self._last_worker = time.monotonic()
        elif time.monotonic() - self._last_worker > self._wait_s:
            if not self._cluster.awaits_workers():
                problem = f"the scheduler has had no worker for {self._wait_s:g} s"
                raise Unreachable(problem, self._cluster.no_worker_remedy)
            self._last_worker = time.monotonic()
        is_timed = any(self._works[key].job.timed for key in self._running)
        busy = set(self._running.values())
        idle = [info for info in workers if info not in busy][: max(0, len(workers) - len(busy))]
        while idle and self._line.untimed and not is_timed:
            self._submit(self._line.untimed.popleft(), idle.pop(0), workers)
        if not self._line.untimed and all(self._works[key].job.timed for key in self._running):
            hosts = {info.host for info in busy}
            for info in {info.host: info for info in reversed(idle) if info.host not in hosts}.values():
                if self._line.timed:
                    self._submit(self._line.timed.popleft(), info, workers)

    def _submit(self, work: Work, info: WorkerInfo, workers: tuple[WorkerInfo, ...]) -> None:
        attempt = self._attempts[work.key] = self._attempts.get(work.key, 0) + 1
        beside = sum(other.host == info.host for other in workers)
        job = replace(work.job, share=1 if work.job.timed else beside, inputs=self._inputs(work))
        dask_key = f"deploytool-{serde.digest(work.key, work.job.key)[:32]}-{attempt}"
        self._current[dask_key] = work.key
        self._running[work.key] = info
        cell = work.job.cell
        self._follow(CellStarted(cell.name, kind(cell)) if cell else SharedStarted(work.name))
        self._cluster.submit(dask_key, worker.work, sweep_job.job_text(job), info.address, self._ended.put)

    def _inputs(self, work: Work) -> tuple[FileEntry, ...] | None:
        """The files that a worker needs that does not see the client's disk; None as long as all see it."""
        if not self._remote:
            return None
        shared = transfer.shared_files(self._out / work.job.after) if work.job.after else ()
        return (*transfer.inputs(work.job.model, work.job.options), *shared)

    def _end(self, done: Done) -> Iterator[Answer | CellResult]:
        """Takes the end of a job: its result, or another attempt."""
        key = self._current.pop(done.key)
        work = self._works[key]
        del self._running[key]
        self._cluster.forget(done.key)
        if done.problem:
            if done.again and self._attempts[key] < _MAX_ATTEMPTS:
                self._again(work, done.problem)
                return
            yield from self._give_up(work, done.problem)
            return
        answer = sweep_job.read_answer(done.text)
        if answer.ending is Ending.OTHER_VERSIONS:
            raise _other_versions(answer.worker, answer.versions)
        if answer.ending is Ending.MISSING:
            yield from self._send(work, answer)
            return
        if answer.files and not self._fetch(work, answer):
            self._again(work, f"{answer.worker} has gone")
            return
        yield from self._finish(work, answer)

    def _again(self, work: Work, why: str) -> None:
        """Puts work first in the line again."""
        cell = work.job.cell
        self._follow(CellReturned(cell.name, kind(cell), why) if cell else SharedEnded(work.name))
        self._line.first(work)

    def _send(self, work: Work, answer: Answer) -> Iterator[Answer | CellResult]:
        """Sends the files that a worker lacks, and repeats the job."""
        self._remote = True
        if answer.missing != (local_files.ALL,):
            known = {entry.digest: Path(entry.path) for entry in self._inputs(work) or ()}
            wanted = {digest: known[digest] for digest in answer.missing if digest in known}
            with suppress(Unreachable):  # the worker is gone: another one gets the job
                transfer.send(self._cluster.call, answer.worker, wanted)
        if self._attempts[work.key] < _MAX_ATTEMPTS:
            self._again(work, f"{answer.worker} gets its files first")
        else:
            yield from self._give_up(work, f"{answer.worker} still lacks files that were sent to it")

    def _fetch(self, work: Work, answer: Answer) -> bool:
        """Fetches what a worker made on a disk of its own; False if the worker is gone."""
        home = self._out / work.job.folder
        try:
            transfer.fetch(self._cluster.call, answer, home, store.incoming(self._out, work.job.key))
            if answer.result is not None:
                store.write(home, work.job.key, answer.result)
                self._cluster.call(answer.worker, local_files.forget, answer.folder)
        except Unreachable:
            if self._attempts[work.key] >= _MAX_ATTEMPTS:
                raise
            return False
        return True

    def _finish(self, work: Work, answer: Answer) -> Iterator[Answer | CellResult]:
        if answer.ending is Ending.FAILED:
            yield from self._fail(work, answer)
            return
        self._line.release(work.key)
        yield self._tell(work, answer.result or answer)

    def _give_up(self, work: Work, problem: str) -> Iterator[Answer | CellResult]:
        """Ends work that no worker could do."""
        now = time.time()
        lost = CellState.LOST
        machine = summary.this_machine()
        answer = Answer(Ending.FAILED, "", machine, now, now, None, 1, problem, _REMEDY_LOST, state=lost)
        yield from self._fail(work, answer)

    def _fail(self, work: Work, answer: Answer) -> Iterator[Answer | CellResult]:
        """Ends a cell without a result, or every cell that begins with shared stages that cannot be made."""
        if work.job.cell is not None:
            yield self._tell(work, _unmade(work, answer))
            return
        yield self._tell(work, answer)
        for other in self._line.drop(work.key):
            yield from self._fail(other, answer)

    def _tell(self, work: Work, result: Answer | CellResult) -> Answer | CellResult:
        """Tells the follower of an end, and returns the result."""
        if isinstance(result, CellResult):
            cell = result.cell
            self._follow(CellEnded(cell.name, kind(cell), result.state, result.seconds, result.problem))
        else:
            self._follow(SharedEnded(work.name))
        return result


def kind(cell: Cell) -> Kind:
    """The words that decide how long a cell takes."""
    return (cell.model, cell.precision.value, cell.exporter, cell.target)


def _unmade(work: Work, answer: Answer) -> CellResult:
    """The result of a cell whose shared stages failed, or that was lost."""
    assert work.job.cell is not None
    failure = (answer.exit_code, answer.problem, answer.remedy)
    return CellResult(work.job.cell, answer.state, work.job.folder, None, *failure, timed=work.job.timed)


def check_versions(cluster: Cluster) -> None:
    """Raises MissingBackend for the first worker that has other versions than the client, or no deploytool."""
    for address, answer in cluster.call_all(worker.describe, "").items():
        if isinstance(answer, Exception):
            problem = f"worker {address} cannot run deploytool: {answer}"
            raise MissingBackend(problem, "install the same deploytool[cpu,sweep] there")
        theirs = worker.versions_in(answer)
        if theirs != keys.versions():
            raise _other_versions(address, theirs)


def _other_versions(address: str, theirs: Mapping[str, str]) -> DeployError:
    """The error for a worker with other versions; it names the first that differs, both there and here."""
    ours = keys.versions()
    name = next(name for name in (*ours, *theirs) if ours.get(name) != theirs.get(name))
    there, here = theirs.get(name, "not installed"), ours.get(name, "not installed")
    problem = f"versions differ: worker {address} has {name} {there}, and this machine {here}"
    return MissingBackend(problem, "install the same versions on every machine")
