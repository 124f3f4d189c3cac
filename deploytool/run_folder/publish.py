"""Replaces a run by a finished one: with one exchange of folders, or by a record that any later command completes."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from deploytool.errors import BadInput
from deploytool.host import files, locks, owner, swap
from deploytool.results import receipt

MAKING = ".making-"  # in the name of an unfinished folder, followed by the process that makes it
UNFINISHED = ".unfinished"  # in a finished run: the stage directories of a later run that was not finished
STAGING = ".staging"  # a file in every staging folder
_COMMIT, _REPLACED = ".publishing", ".gone"
_STAGES, _OWNER = ".stages.json", ".owner"
_CARRIED = ("blame", "devices")  # folders beside the stage directories that outlive a run
_POLL_S, _TIMEOUT_S = 0.05, 10.0


def publish(staging: Path, real: Path, descriptors: list[int]) -> None:
    """Replaces a run by a finished staging folder, by an exchange or by the record.

    The descriptor of the new folder, with its lock taken, is added to `descriptors`.
    """
    (staging / STAGING).unlink(missing_ok=True)
    real.mkdir(exist_ok=True)  # without locks, another command may have removed the empty folder
    if staging.parent != real and is_exchangeable(real) and _exchange(staging, real, descriptors):
        _carry_late_entries(staging, real)
        files.remove(staging)
    else:
        _commit(staging, real)


def _exchange(staging: Path, real: Path, descriptors: list[int]) -> bool:
    """Exchanges the two folders if possible; the new one stays locked until `descriptors` are closed."""
    descriptors.append(os.open(staging, os.O_RDONLY | os.O_DIRECTORY))
    locks.acquire(descriptors[-1])
    swap.flush_names(staging)
    done = swap.exchange(staging, real)
    if done:
        swap.flush_names(real.parent)
    return done


def _carry_late_entries(old: Path, real: Path) -> None:
    """Moves what was written into the old folder after its entries had been carried over."""
    for path in old.iterdir():
        if path.name == UNFINISHED or is_stage_directory(path):
            continue
        present = real / path.name
        with suppress(OSError):
            if not present.exists() or (path.is_file() and path.stat().st_mtime_ns > present.stat().st_mtime_ns):
                path.replace(present)


def _commit(staging: Path, real: Path) -> None:
    """Moves the stage directories of a staging folder into the run one by one.

    Once the record has its final name, a kill changes nothing: any later command completes it. Raises BadInput if
    another process, of unknown state, has been publishing for long.
    """
    stages = []
    for path in staging.iterdir():
        present = real / path.name
        if is_stage_directory(path):
            stages.append(path.name)
        elif path.is_dir() or (present.exists() and present.stat().st_mtime_ns >= path.stat().st_mtime_ns):
            files.remove(path)  # it was carried over from the run, which still has it
    (staging / _STAGES).write_text(json.dumps(stages), encoding="utf-8")
    (staging / _OWNER).write_text(owner.name(), encoding="utf-8")
    inside = real / (MAKING + owner.name())
    if staging.parent != real:
        staging.rename(inside)
        staging = inside
    swap.flush(staging)
    _start_record(staging, real)
    _roll_forward(real)


def _start_record(staging: Path, real: Path) -> None:
    """Gives the staging folder the name of the record, as soon as no other record is there."""
    start = time.monotonic()
    while True:
        recover(real)
        try:
            staging.rename(real / _COMMIT)
            swap.flush_names(real)
            return
        except OSError as error:
            if time.monotonic() - start > _TIMEOUT_S or not (real / _COMMIT).exists():
                problem = f"another deploytool is publishing into {real}: {error.strerror}"
                remedy = f"if no other is running, remove {real / _COMMIT}, and export again"
                raise BadInput(problem, remedy) from error
            time.sleep(_POLL_S)


def _roll_forward(real: Path) -> None:
    """Completes a recorded publication."""
    commit = real / _COMMIT
    try:
        stages = json.loads((commit / _STAGES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        shutil.rmtree(commit, ignore_errors=True)  # only the removal of the record is left
        return
    replaced = commit / _REPLACED
    with suppress(FileNotFoundError):  # another command completes the same record
        replaced.mkdir(exist_ok=True)
        for old in [path for path in real.iterdir() if is_stage_directory(path)]:
            if (commit / old.name).is_dir() or old.name not in stages:
                shutil.rmtree(replaced / old.name, ignore_errors=True)
                old.rename(replaced / old.name)
        for new in [path for path in commit.iterdir() if path.name not in (_REPLACED, _STAGES, _OWNER)]:
            new.replace(real / new.name)
        swap.flush_names(real)
        (commit / _STAGES).unlink()  # marks the record as complete
    shutil.rmtree(commit, ignore_errors=True)


def _publisher(commit: Path) -> owner.Owner | None:
    try:
        return owner.read((commit / _OWNER).read_text(encoding="utf-8"))
    except OSError:
        return None


def _is_abandoned(commit: Path) -> bool:
    """Whether the process that publishes has ended or is done; assumed after an hour if that is unknown."""
    process = _publisher(commit)
    if process is None or not (commit / _STAGES).exists():
        return True
    alive = process.alive()
    return not alive if alive is not None else owner.is_abandoned(commit)


def finish_own(real: Path) -> None:
    """Completes what this process itself has begun to publish, before the process is ended."""
    if _publisher(real / _COMMIT) == owner.read(owner.name()):
        _roll_forward(real)


def recover(home: Path) -> None:
    """Completes what a command had begun to publish in `home` when it was killed."""
    commit = home / _COMMIT
    if commit.is_dir() and _is_abandoned(commit):
        _roll_forward(Path(os.path.realpath(home)))


def is_exchangeable(real: Path) -> bool:
    """Whether the folder may be exchanged: it is not a working folder, and deploytool wrote all it contains."""
    with suppress(OSError):
        if real == Path.cwd() or real in Path.cwd().parents:
            return False
    status, parent = real.stat(), real.parent.stat()
    if os.path.ismount(real) or status.st_dev != parent.st_dev or status.st_uid != os.geteuid():
        return False
    return all(_known(path) for path in real.iterdir())


def _known(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir():
        # another command may have just removed it
        return not path.is_symlink() and (path.is_file() or not path.exists())
    return is_stage_directory(path) or path.name in (*_CARRIED, UNFINISHED) or path.name.startswith(MAKING)


def carried_entries(real: Path) -> list[Path]:
    """What is carried over to the next run: files beside the stage directories, and folders of deploytool."""
    return [
        path
        for path in real.iterdir()
        if not path.name.startswith(MAKING)
        and not path.name.endswith(files.UNFINISHED)
        and (path.name in _CARRIED or (path.is_file() and not path.is_symlink()))
    ]


def is_stage_directory(path: Path) -> bool:
    """Whether a folder has a receipt."""
    return (path / receipt.FILE).is_file()
