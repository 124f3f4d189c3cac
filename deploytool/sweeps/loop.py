"""Gives jobs to workers and collects their answers, until every cell has a result."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploytool import serde
from deploytool.errors import DeployError, MissingBackend, Unreachable
from deploytool.results.sweep import CellResult, CellState
from deploytool.sweeps import job as sweep_job
from deploytool.sweeps import keys, local_files, store, summary, transfer, worker
from deploytool.sweeps.cluster import Cluster, Done, WorkerInfo
from deploytool.sweeps.job import Answer, Ending, FileEntry, Work

_POLL_S = 1.0
_MAX_ATTEMPTS = 8  # of one job whose worker or scheduler disappeared
_REMEDY_LOST = "run the same command again; more memory for a worker may help: fewer --workers"


@dataclass
class _State:
    """What the loop knows: waiting and running work, the worker of each running one, and failed shared stages."""

    waiting: dict[str, Work]
    running: dict[str, WorkerInfo] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    failed: dict[str, Answer] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)


class Loop:
    """The work of a sweep on a cluster.

    `watch(running, workers)` is called after every change, with the names of what runs. Untimed work comes first, one
    job for each worker; then timed work, one job for each machine, which nothing else of the sweep runs beside.
    """

    def __init__(
        self,
        cluster: Cluster,
        works: Mapping[str, Work],
        out: Path,
        wait_s: float,
        watch: Callable[[tuple[str, ...], int], None],
    ) -> None:
        self._cluster, self._works, self._out, self._wait_s, self._watch = cluster, works, out, wait_s, watch
        self._state = _State(dict(works))
        self._ended: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._remote = False  # whether a worker does not see the client's disk
        self._last_worker = time.monotonic()
        self._current: dict[str, str] = {}  # Dask's key of running work: its own key

    def run(self) -> Iterator[tuple[Work, Answer | CellResult]]:
        """Yields every finished work: shared stages with their answer, cells with their result.

        Raises MissingBackend for a worker with other versions, and Unreachable if the scheduler or all workers are
        gone.
        """
        _check_versions(self._cluster)
        while self._state.waiting or self._state.running:
            self._assign(self._cluster.workers())
            self._watch(tuple(self._works[key].name for key in self._state.running), len(self._cluster.workers()))
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
            problem = f"the scheduler has had no worker for {self._wait_s:g} s"
            raise Unreachable(problem, "start some: dask worker ADDRESS --nthreads 1, with deploytool[cpu,sweep]")
        timed_runs = any(self._works[key].job.timed for key in self._state.running)
        busy = set(self._state.running.values())
        idle = [info for info in workers if info not in busy][: max(0, len(workers) - len(busy))]
        ready = [work for work in self._state.waiting.values() if not work.after or work.after in self._state.done]
        untimed = [work for work in ready if not work.job.timed]
        if not timed_runs:
            for work, info in zip(untimed, idle, strict=False):
                self._submit(work, info, workers)
        if not untimed and all(self._works[key].job.timed for key in self._state.running):
            hosts = {info.host for info in busy}
            free = {info.host: info for info in reversed(idle) if info.host not in hosts}
            for work, info in zip([work for work in ready if work.job.timed], free.values(), strict=False):
                self._submit(work, info, workers)

    def _submit(self, work: Work, info: WorkerInfo, workers: tuple[WorkerInfo, ...]) -> None:
        attempt = self._state.attempts[work.key] = self._state.attempts.get(work.key, 0) + 1
        beside = sum(other.host == info.host for other in workers)
        job = replace(work.job, share=1 if work.job.timed else beside, inputs=self._inputs(work))
        dask_key = f"deploytool-{serde.digest(work.key, work.job.key)[:32]}-{attempt}"
        self._current[dask_key] = work.key
        self._state.running[work.key] = info
        self._state.waiting.pop(work.key, None)
        self._cluster.submit(dask_key, worker.work, sweep_job.job_text(job), info.address, self._ended.put)

    def _inputs(self, work: Work) -> tuple[FileEntry, ...]:
        """The files that a worker needs that does not see the client's disk; none as long as all see it."""
        if not self._remote:
            return ()
        shared = transfer.shared_files(self._out / work.job.after) if work.job.after else ()
        return (*transfer.inputs(work.job.model, work.job.options), *shared)

    def _end(self, done: Done) -> Iterator[tuple[Work, Answer | CellResult]]:
        """Takes the end of a job: its result, or another attempt."""
        key = self._current.pop(done.key)
        work = self._works[key]
        del self._state.running[key]
        self._cluster.forget(done.key)
        if done.problem:
            if done.again and self._state.attempts[key] < _MAX_ATTEMPTS:
                self._again(work)
                return
            yield from self._give_up(work, done.problem)
            return
        answer = sweep_job.read_answer(done.text)
        if answer.ending is Ending.OTHER_VERSIONS:
            raise _other_versions(answer.worker, answer.versions)
        if answer.ending is Ending.MISSING:
            self._send(work, answer)
            return
        if answer.files and not self._fetch(work, answer):
            self._again(work)
            return
        yield from self._finish(work, answer)

    def _again(self, work: Work) -> None:
        """Puts work first in the line again."""
        self._state.waiting = {work.key: work, **self._state.waiting}

    def _send(self, work: Work, answer: Answer) -> None:
        """Sends the files that a worker lacks, and repeats the job, which counts as no attempt."""
        self._remote = True
        self._state.attempts[work.key] -= 0 if answer.missing == (local_files.ALL,) else 1
        if answer.missing != (local_files.ALL,):
            known = {entry.digest: Path(entry.path) for entry in self._inputs(work)}
            try:
                wanted = {digest: known[digest] for digest in answer.missing if digest in known}
                transfer.send(self._cluster.call, answer.worker, wanted)
            except Unreachable:
                self._state.attempts[work.key] += 1
        self._again(work)

    def _fetch(self, work: Work, answer: Answer) -> bool:
        """Fetches what a worker made on a disk of its own; False if the worker is gone."""
        home = self._out / work.job.folder
        try:
            transfer.fetch(self._cluster.call, answer, home, store.incoming(self._out, work.job.key))
            if answer.result is not None:
                store.write(home, work.job.key, answer.result)
                self._cluster.call(answer.worker, local_files.forget, answer.folder)
        except Unreachable:
            if self._state.attempts[work.key] >= _MAX_ATTEMPTS:
                raise
            return False
        return True

    def _finish(self, work: Work, answer: Answer) -> Iterator[tuple[Work, Answer | CellResult]]:
        if answer.ending is Ending.FAILED:
            yield from self._fail(work, answer)
            return
        self._state.done.add(work.key)
        yield work, answer if answer.result is None else answer.result

    def _give_up(self, work: Work, problem: str) -> Iterator[tuple[Work, Answer | CellResult]]:
        """Ends work that no worker could do."""
        now = time.time()
        lost = CellState.LOST
        machine = summary.this_machine()
        answer = Answer(Ending.FAILED, "", machine, now, now, None, 1, problem, _REMEDY_LOST, state=lost)
        yield from self._fail(work, answer)

    def _fail(self, work: Work, answer: Answer) -> Iterator[tuple[Work, Answer | CellResult]]:
        """Ends a cell without a result, or every cell that begins with shared stages that cannot be made."""
        if work.job.cell is not None:
            yield work, _unmade(work, answer)
            return
        yield work, answer
        for other in [other for other in self._state.waiting.values() if other.after == work.key]:
            del self._state.waiting[other.key]
            yield from self._fail(other, answer)


def _unmade(work: Work, answer: Answer) -> CellResult:
    """The result of a cell whose shared stages failed, or that was lost."""
    assert work.job.cell is not None
    failure = (answer.exit_code, answer.problem, answer.remedy)
    return CellResult(work.job.cell, answer.state, work.job.folder, None, *failure, timed=work.job.timed)


def _check_versions(cluster: Cluster) -> None:
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
