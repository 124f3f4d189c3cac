"""What travels between the client of a sweep and its workers, as JSON text: the job and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deploytool import serde
from deploytool.results.sweep import Cell, CellResult, CellState, Machine
from deploytool.serde import Json
from deploytool.spec import Stage, StrEnum

MAX_BYTES = 16 << 20  # of a job or an answer


@dataclass(frozen=True)
class FileEntry:
    """A file by its path, its SHA-256 and its bytes."""

    path: str
    digest: str
    size: int


@dataclass(frozen=True)
class Job:
    """One cell, or stages that several cells share (`cell` is None).

    `root` is the folder of the sweep and `cwd` the working folder of the client, both as the client sees them; `nonce`
    is in the folder of the sweep. `folder` is the run's, and `after` that of the run with the shared stages to begin
    with, both relative to `root`. `share` is the number of workers that share the processors of a machine. `inputs` are
    the files that a worker needs that does not see the client's disk, None if they are not listed yet. `child` is the
    module that does the work in a process of its own.
    """

    key: str
    root: str
    nonce: str
    cwd: str
    folder: str
    after: str
    model: str
    options: Mapping[str, Json]
    stages: tuple[Stage, ...]
    cell: Cell | None
    timed: bool
    share: int
    is_embedded: bool
    versions: Mapping[str, str]
    inputs: tuple[FileEntry, ...] | None = None
    child: str = "deploytool.sweeps.child"


@dataclass(frozen=True)
class Work:
    """A job with its name for people, and the work that has to be done before it; empty for none."""

    name: str
    job: Job
    after: str = ""

    @property
    def key(self) -> str:
        """The identity of the work."""
        return f"{self.job.root}/{self.job.folder}"


@dataclass(frozen=True)
class ChildTask:
    """What a worker sends to the process that does a job: where the folder of the sweep and the working folder are.

    `result` is the file for the result.
    """

    job: Job
    root: str
    cwd: str
    result: str


class Ending(StrEnum):
    """How a job ended on a worker: with a result, or because files are missing there or the versions differ."""

    DONE = "done"
    FAILED = "failed"  # shared stages that cannot be made
    MISSING = "missing"
    OTHER_VERSIONS = "other versions"


@dataclass(frozen=True)
class Answer:
    """What a worker returns for a job.

    `result` is that of a cell. For shared stages that failed there are `exit_code`, `problem`, `remedy`, and the state
    of every cell that needs them. `missing` are digests of files that the worker needs first. `files` are those that
    the client has to fetch from `worker`, empty if both see one disk.
    """

    ending: Ending
    worker: str
    machine: Machine
    started: float
    ended: float
    result: CellResult | None = None
    exit_code: int = 0
    problem: str = ""
    remedy: str = ""
    missing: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()
    folder: str = ""
    state: CellState = CellState.REFUSED


def job_text(job: Job) -> str:
    """A job as text."""
    return serde.text(job)


def read_job(text: str) -> Job:
    """The job in a text."""
    return serde.decode(Job, serde.loads(text, MAX_BYTES))


def answer_text(answer: Answer) -> str:
    """An answer as text."""
    return serde.text(answer)


def read_answer(text: str) -> Answer:
    """The answer in a text."""
    return serde.decode(Answer, serde.loads(text, MAX_BYTES))
