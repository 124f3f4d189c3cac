"""Puts a finished run in the place of the one that is there: at once, or by a record that any later command ends."""

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

MAKING = ".making-"  # begins the name of what is not finished, and an owner ends it
UNFINISHED = ".unfinished"  # in the folder of a good run: the rooms of a later one that failed or was stopped
STAGING = ".staging"  # a file in every staging folder
_COMMIT, _GONE = ".publishing", ".gone"
_ROOMS, _OWNER = ".rooms.json", ".owner"
_CARRIED = ("blame", "devices")  # folders beside the rooms that are ours, and outlive a run
_POLL_S, _PUBLISHING_S = 0.05, 10.0


def publish(made: Path, real: Path, held: list[int]) -> None:
    """Puts a finished staging folder in the place of a run, at once or by the record."""
    (made / STAGING).unlink(missing_ok=True)
    real.mkdir(exist_ok=True)  # where there are no locks, another command may have found it empty, and useless
    if made.parent != real and exchangeable(real) and _exchanged(made, real, held):
        _bring(made, real)
        files.remove(made)
    else:
        _commit(made, real)


def _exchanged(made: Path, real: Path, held: list[int]) -> bool:
    """Puts the folder in the place of the other, and keeps others out of it as long as `held` is not closed."""
    held.append(os.open(made, os.O_RDONLY | os.O_DIRECTORY))
    locks.acquire(held[-1])
    swap.flush_names(made)
    done = swap.exchange(made, real)
    if done:
        swap.flush_names(real.parent)
    return done


def _bring(old: Path, real: Path) -> None:
    """Moves what came into the old folder after all had been gathered."""
    for path in old.iterdir():
        if path.name == UNFINISHED or is_stage_directory(path):
            continue
        now = real / path.name
        with suppress(OSError):
            if not now.exists() or (path.is_file() and path.stat().st_mtime_ns > now.stat().st_mtime_ns):
                path.replace(now)


def _commit(made: Path, real: Path) -> None:
    """Moves the rooms of a staging folder into the run's one by one; from the first rename on, a kill changes nothing.

    Raises BadInput if another process, which cannot be asked, has been about it for long.
    """
    rooms = []
    for path in made.iterdir():
        now = real / path.name
        if is_stage_directory(path):
            rooms.append(path.name)
        elif path.is_dir() or (now.exists() and now.stat().st_mtime_ns >= path.stat().st_mtime_ns):
            files.remove(path)  # it was carried over, and is there
    (made / _ROOMS).write_text(json.dumps(rooms), encoding="utf-8")
    (made / _OWNER).write_text(owner.name(), encoding="utf-8")
    inside = real / (MAKING + owner.name())
    if made.parent != real:
        made.rename(inside)
        made = inside
    swap.flush(made)
    begun = time.monotonic()
    while True:
        recover(real)
        try:
            made.rename(real / _COMMIT)
            swap.flush_names(real)
            break
        except OSError as error:
            if time.monotonic() - begun > _PUBLISHING_S or not (real / _COMMIT).exists():
                problem = f"another deploytool is publishing into {real}: {error.strerror}"
                raise BadInput(problem, f"if none runs any more, remove {real / _COMMIT}, and export again") from error
            time.sleep(_POLL_S)
    _roll_forward(real)


def _roll_forward(real: Path) -> None:
    """Does what is left to do of a publication that was recorded."""
    commit = real / _COMMIT
    try:
        rooms = json.loads((commit / _ROOMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        shutil.rmtree(commit, ignore_errors=True)  # all was done but this
        return
    gone = commit / _GONE
    with suppress(FileNotFoundError):  # another command does the same
        gone.mkdir(exist_ok=True)
        for there in [path for path in real.iterdir() if is_stage_directory(path)]:
            if (commit / there.name).is_dir() or there.name not in rooms:
                shutil.rmtree(gone / there.name, ignore_errors=True)
                there.rename(gone / there.name)
        for new in [path for path in commit.iterdir() if path.name not in (_GONE, _ROOMS, _OWNER)]:
            new.replace(real / new.name)
        swap.flush_names(real)
        (commit / _ROOMS).unlink()  # from here on it is nobody's
    shutil.rmtree(commit, ignore_errors=True)


def _publisher(commit: Path) -> owner.Owner | None:
    try:
        return owner.read((commit / _OWNER).read_text(encoding="utf-8"))
    except OSError:
        return None


def _dead(commit: Path) -> bool:
    """Whether whoever had begun to publish is no more, or was done; where nobody can tell, after an hour."""
    found = _publisher(commit)
    if found is None or not (commit / _ROOMS).exists():
        return True
    alive = found.alive()
    return not alive if alive is not None else owner.is_abandoned(commit)


def finish(real: Path) -> None:
    """Finishes what this process itself had begun to publish: for whoever is about to end it."""
    if _publisher(real / _COMMIT) == owner.read(owner.name()):
        _roll_forward(real)


def recover(home: Path) -> None:
    """Finishes what a command had begun to publish in `home` when it was killed."""
    commit = home / _COMMIT
    if commit.is_dir() and _dead(commit):
        _roll_forward(Path(os.path.realpath(home)))


def exchangeable(real: Path) -> bool:
    """Whether the folder itself may be another one afterwards: nobody stands in it, and all that it holds is ours."""
    with suppress(OSError):
        if real == Path.cwd() or real in Path.cwd().parents:
            return False
    there, above = real.stat(), real.parent.stat()
    if os.path.ismount(real) or there.st_dev != above.st_dev or there.st_uid != os.geteuid():
        return False
    return all(_known(path) for path in real.iterdir())


def _known(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir():
        return not path.is_symlink() and (path.is_file() or not path.exists())  # it may have gone just now
    return is_stage_directory(path) or path.name in (*_CARRIED, UNFINISHED) or path.name.startswith(MAKING)


def others(real: Path) -> list[Path]:
    """What lies beside the rooms and goes on lying there: files, and our own folders."""
    return [
        path
        for path in real.iterdir()
        if not path.name.startswith(MAKING)
        and not path.name.endswith(files.UNFINISHED)
        and (path.name in _CARRIED or (path.is_file() and not path.is_symlink()))
    ]


def is_stage_directory(path: Path) -> bool:
    """Whether a receipt digests a folder."""
    return (path / receipt.FILE).is_file()
