"""Makes a run beside the one that is there, and puts it in its place as a whole: a run's folder is never half of both.

A run grows in a staging folder, whose name carries the process that makes it (`owner`). In the end one rename
exchanges it for the folder of the run. Where that cannot be, as for a mount point, the working folder or a folder that
holds other things too, the rooms are moved in one by one under a record that any later command finishes by.
A lock only saves two exports from doing the same work: without it, each still makes its own, and the last one stays.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploytool.errors import BadInput
from deploytool.host import files, owner, swap
from deploytool.results import receipt
from deploytool.run_folder import lock
from deploytool.run_folder import publish as run_folder_publish
from deploytool.run_folder.publish import MAKING, STAGING, UNFINISHED
from deploytool.spec import Stage

_REPORT = Stage.VALIDATE.value  # the room that only a run which came to its end has
_LONGEST_NAME = 150  # bytes


class Staging:
    """The right to change the folder of a run, and the place where the next run grows.

    `at` is the run as it is so far: its folder, or once `begin` was called, the staging folder.
    """

    def __init__(self, home: Path, held: list[int]) -> None:
        self.home, self._held, self._real = home, held, Path(os.path.realpath(home))
        self.at, self._begun = home, False
        self._sources = (home, self._real / UNFINISHED, *_leftovers(self._real)[:1])

    def sources(self, verb: str) -> list[Path]:
        """Where a room of this name may lie finished: in the run, or in what a later one left that did not end."""
        return [place / verb for place in self._sources]

    def begin(self) -> None:
        """Makes the staging folder, with nothing in it."""
        if self._begun:
            return
        self.at = self._beside() or self._inside()
        (self.at / STAGING).touch()
        self._begun = True

    def take(self, room: Path) -> Path:
        """Makes a finished room one of this run too; raises OSError if it goes away meanwhile."""
        if not self._begun:
            return room
        place = self.at / room.name
        try:
            swap.link_tree(room, place)
        except OSError:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return place

    @contextmanager
    def bench(self, verb: str) -> Iterator[Path]:
        """A folder to make a room in; it becomes the room `verb` when this is left, and is gone if it fails."""
        self.begin()
        with workshop(self.at) as made:
            yield made
            files.remove(self.at / verb)
            made.rename(self.at / verb)

    def gather(self) -> None:
        """Has what lies beside the rooms of the run that is there, such as a benchmark, lie beside those of this."""
        if not self._begun:
            return
        for path in run_folder_publish.others(self._real):
            copy = self.at / path.name
            with suppress(OSError):  # it has just gone
                if path.is_dir():
                    if not copy.exists():
                        swap.link_tree(path, copy)
                elif not copy.exists():
                    swap.link(path, copy)

    def publish(self) -> None:
        """Puts this run in the place of the one that is there; nothing is left of what did not come to its end."""
        if self._begun:
            self.gather()
            for room in self.at.iterdir():
                swap.flush(room)
            run_folder_publish.publish(self.at, self._real, self._held)
            self.at, self._begun = self.home, False
        for left in (self._real / UNFINISHED, *_leftovers(self._real)):
            shutil.rmtree(left, ignore_errors=True)

    def leave(self) -> None:
        """Keeps the finished rooms of a run that did not come to its end, for the next one to go on from."""
        if self._begun:
            _keep(self.at, self._real, self._held)
        self.at, self._begun = self.home, False
        with suppress(OSError):
            self._real.rmdir()  # which only an empty folder allows

    def _beside(self) -> Path | None:
        """A folder that can be exchanged for that of the run; None where there can be none."""
        made = self._real.with_name(_hidden(self._real) + owner.name())
        try:
            if not run_folder_publish.exchangeable(self._real):
                return None
            made.mkdir()
            shutil.copystat(self._real, made)
            os.chown(made, -1, self._real.stat().st_gid)
        except OSError:
            files.remove(made)
            return None
        return made

    def _inside(self) -> Path:
        made = self._real / (MAKING + owner.name())
        made.mkdir()
        return made


@contextmanager
def opened(home: Path) -> Iterator[Staging]:
    """The right to change the run in `home`; waits for whoever has it, and sweeps what the dead left.

    Raises BadInput if the folder cannot be written.
    """
    try:
        with lock.locked(home) as held:
            sweep_abandoned(home)
            staging = Staging(home, held)
            with workshop(Path(os.path.realpath(home))):
                pass
            try:
                yield staging
            except FileNotFoundError as error:
                if staging.at.is_dir():
                    raise
                problem = f"another deploytool changed {home} meanwhile"  # which locks would have kept out
                raise BadInput(problem, "run the same command again") from error
            finally:
                staging.leave()
    except lock.Unwritable as error:
        raise BadInput(str(error), "choose another folder with --out") from error


@contextmanager
def workshop(home: Path) -> Iterator[Path]:
    """A folder to work in that carries our name, gone afterwards unless it became something."""
    bench = home / (MAKING + owner.name())
    try:
        bench.mkdir()
    except OSError as error:
        raise lock.Unwritable(f"cannot write to {home}: {error.strerror}") from error
    try:
        yield bench
    finally:
        shutil.rmtree(bench, ignore_errors=True)


def sweep_abandoned(home: Path) -> None:
    """Takes away what commands that were killed left in and beside `home`, but for one unfinished run to go on from."""
    real = Path(os.path.realpath(home))
    run_folder_publish.recover(real)
    for left in real.glob(f"{MAKING}*"):
        if owner.read(left.name) is None or owner.is_abandoned(left):
            files.remove(left)
    files.sweep(real, f".*{files.UNFINISHED}")
    for left in _leftovers(real)[1:]:
        files.remove(left)


def sweep(home: Path) -> None:
    """Ends what this process was making in `home`: for whoever is about to end it. Finished rooms are kept."""
    real = Path(os.path.realpath(home))
    for left in (*_staged(real), *real.glob(f"{MAKING}*")):
        if _ours(left):
            if (left / STAGING).exists():
                _keep(left, real, [])
            files.remove(left)
    run_folder_publish.finish(real)
    sweep_abandoned(home)
    with suppress(OSError):
        real.rmdir()  # which only an empty folder allows


def _ours(left: Path) -> bool:
    return owner.read(left.name) == owner.read(owner.name())


def _hidden(real: Path) -> str:
    """What begins the name of every staging folder beside a run's folder."""
    name = real.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return f".{name}{MAKING}"


def _staged(real: Path) -> list[Path]:
    """Every staging folder beside a run's folder."""
    try:
        return [real.parent / name for name in os.listdir(real.parent) if name.startswith(_hidden(real))]  # noqa: PTH208
    except OSError:
        return []


def _leftovers(real: Path) -> list[Path]:
    """What the dead left beside a run's folder; the one with most rooms first."""
    dead = [path for path in _staged(real) if owner.is_abandoned(path)]
    return sorted(dead, key=lambda path: -len(list(path.glob(f"*/{receipt.FILE}"))))


def _keep(made: Path, real: Path, held: list[int]) -> None:
    """Keeps the finished rooms of a staging folder: as the run itself where there is none that came to its end."""
    if not made.is_dir():
        return
    for left in made.glob(f"{MAKING}*"):
        files.remove(left)
    rooms = [path for path in made.iterdir() if run_folder_publish.is_stage_directory(path)]
    new = [room for room in rooms if not _is(room, real / room.name)]
    if not new:
        files.remove(made)
    elif not run_folder_publish.is_stage_directory(real / _REPORT):
        run_folder_publish.publish(made, real, held)
    else:
        files.remove(real / UNFINISHED)
        with suppress(OSError):  # where there are no locks, another command may do the same
            made.rename(real / UNFINISHED)


def _is(room: Path, other: Path) -> bool:
    """Whether two rooms are the same by another name."""
    try:
        return (room / receipt.FILE).samefile(other / receipt.FILE)
    except OSError:
        return False
