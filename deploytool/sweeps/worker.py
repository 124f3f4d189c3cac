"""What a worker of a sweep does: it runs one job at a time, each in a process of its own, and answers with text."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from distributed import get_worker

from deploytool import serde
from deploytool.errors import ChildDied, ChildFailed, DeployError
from deploytool.host import exception_text, machine, process, scratch, workers
from deploytool.results.sweep import Cell, CellResult, CellState
from deploytool.sweeps import exclusive, keys, local_files, store, summary, trim
from deploytool.sweeps import job as sweep_job
from deploytool.sweeps.job import Answer, ChildTask, Ending, Job
from deploytool.sweeps.local_files import Place

_UNLIMITED_BYTES = 1 << 60
_UNLIMITED_S = 30 * 24 * 3600.0  # a build of engines may take hours; the user ends a job that hangs


class ChildGone(Exception):
    """The process of a job was killed: by the system, which lacks memory, or by a crash of a library.

    No DeployError, because those do not survive the way from a worker to the client.
    """


def work(text: str) -> str:
    """Does the job in `text` and returns the answer as text; the only function that a scheduler calls for a job.

    Raises ChildGone if the process of the job was killed, so that the scheduler repeats the job.
    """
    job = sweep_job.read_job(text)
    with nullcontext() if job.is_embedded else exclusive.in_this_process():
        return sweep_job.answer_text(_answer(job))


def describe(text: str) -> str:
    """The versions of this worker as text, whatever `text` is."""
    return serde.text(keys.versions())


def versions_in(text: str) -> Mapping[str, str]:
    """The versions in a text of `describe`."""
    return serde.decode(dict[str, str], serde.loads(text))


def _answer(job: Job) -> Answer:
    now = time.time()
    answer = Answer(Ending.DONE, get_worker().address, summary.this_machine(), now, now)
    if keys.versions() != job.versions:
        return replace(answer, ending=Ending.OTHER_VERSIONS, versions=keys.versions())
    if store.is_shared(Path(job.root), job.nonce):
        return _answer_in(_client_disk(job), job, answer)
    with trim.in_use(local_files.cache(), local_files.mirror(job)):
        with suppress(OSError):  # a cache that is too large is no reason to fail
            trim.trim(local_files.cache())
        return _answer_in(local_files.prepare(job), job, answer)


def _answer_in(place: Place, job: Job, answer: Answer) -> Answer:
    """Does a job in its place, if that has all files."""
    if missing := place.missing:
        return replace(answer, ending=Ending.MISSING, missing=missing)
    home = place.root / job.folder
    done = store.finished(home, job.key) if job.cell else None
    if done is None:
        done = _run(job, place)
        if job.cell is not None and done.finished:
            try:
                store.write(home, job.key, done)
            except (DeployError, OSError) as error:  # a full disk, or a file where the folder should be
                done = _lost(job, error)
    return _finished(job, place, replace(answer, ended=time.time()), done)


def _client_disk(job: Job) -> Place:
    return Place(Path(job.root), Path(job.cwd), job.model, job.options)


def _run(job: Job, place: Place) -> CellResult:
    """Runs the process of a job as soon as it may run on this machine, and returns its result."""
    moved = replace(job, model=place.model, options=place.options, inputs=None)
    with exclusive.on_this_machine(timed=job.timed), scratch.folder() as folder:
        started, file = time.time(), folder / "result.json"
        task = ChildTask(moved, str(place.root), str(place.cwd), str(file))
        try:
            _start(job, task, folder)
            if not file.exists():
                name = job.cell.name if job.cell else job.folder
                raise ChildFailed(f"the process of {name} ended without a result", "look for an exit in the model", "")
            done = serde.read(CellResult, file)
        except ChildDied as error:
            raise ChildGone(str(error)) from error
        except (DeployError, OSError, serde.Malformed) as error:
            done = _lost(job, error)
        ended = time.time()
    seconds = round(ended - started, 3)
    place_made = summary.this_machine()
    return replace(done, timed=job.timed, machine=place_made, started=started, ended=ended, seconds=seconds)


def _lost(job: Job, error: Exception) -> CellResult:
    """The result of a job that ended without one."""
    failure = exception_text.as_error(error)
    code, problem, remedy = summary.exit_of(failure)
    cell = job.cell or Cell(job.folder, job.model)
    return CellResult(cell, CellState.LOST, job.folder, None, code, problem, remedy)


def _start(job: Job, task: ChildTask, folder: Path) -> None:
    """Runs the process of a job to its end, with the threads that the job may use."""
    command = workers.command(job.child)
    if os.name == "posix":
        limits = [f"OMP_NUM_THREADS={max(1, machine.processors() // job.share)}"] if job.share > 1 else []
        command = ("env", f"TMPDIR={folder}", *limits, *command)
    name = job.cell.name if job.cell else job.folder
    process.run_limited(
        command,
        what=name,
        seconds=_UNLIMITED_S,
        gibibytes=math.inf,
        max_file_bytes=_UNLIMITED_BYTES,
        task=serde.encode(task),
    )


def _finished(job: Job, place: Place, answer: Answer, done: CellResult) -> Answer:
    """The answer with the result, and with the files to fetch if the client does not see them."""
    found = local_files.made(place, job.folder) if place.is_local else ()
    ending = Ending.DONE if job.cell or done.state is CellState.PASSED else Ending.FAILED
    return replace(
        answer,
        ending=ending,
        result=done if job.cell else None,
        exit_code=done.exit_code,
        problem=done.problem,
        remedy=done.remedy,
        state=done.state,
        files=found,
        folder=str(place.root / job.folder),
    )
