"""Makes a run in a staging folder and replaces the previous run as a whole, so that a run is never half of both.

The name of the staging folder contains the process that makes it (`owner`). At the end one rename exchanges it for the
folder of the run. Where that is impossible, as for a mount point, the working folder or a folder with foreign files,
the stage directories are moved one by one under a record that any later command completes.
The lock only keeps two exports from doing the same work: without it, each makes its own run, and the last one remains.
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

_REPORT = Stage.VALIDATE.value  # the stage directory that only a finished run has
_MAX_NAME_BYTES = 150


class Staging:
    """The exclusive right to change the folder of a run, and the staging folder of the next run.

    `at` is the folder of the run so far: that of the run itself, or once `begin` was called, the staging folder.
    """

    def __init__(self, home: Path, descriptors: list[int]) -> None:
        self.home, self._descriptors, self._real = home, descriptors, Path(os.path.realpath(home))
        self.at, self._begun = home, False
        self._sources = (home, self._real / UNFINISHED, *_leftovers(self._real)[:1])

    def sources(self, stage: str) -> list[Path]:
        """Where a finished directory of a stage may be: in the run, or in a later run that was not finished."""
        return [source / stage for source in self._sources]

    def begin(self) -> None:
        """Creates the empty staging folder."""
        if self._begun:
            return
        self.at = self._beside() or self._inside()
        (self.at / STAGING).touch()
        self._begun = True

    def link_stage(self, directory: Path) -> Path:
        """Links a finished stage directory into this run; raises OSError if it is removed meanwhile."""
        if not self._begun:
            return directory
        linked = self.at / directory.name
        try:
            swap.link_tree(directory, linked)
        except OSError:
            shutil.rmtree(linked, ignore_errors=True)
            raise
        return linked

    @contextmanager
    def stage_directory(self, stage: str) -> Iterator[Path]:
        """A temporary folder that becomes the directory of `stage`, or is removed if the body fails."""
        self.begin()
        with temporary_directory(self.at) as temporary:
            yield temporary
            files.remove(self.at / stage)
            temporary.rename(self.at / stage)

    def gather(self) -> None:
        """Links what is beside the stage directories of the present run, such as a benchmark, into this run."""
        if not self._begun:
            return
        for path in run_folder_publish.carried_entries(self._real):
            copy = self.at / path.name
            with suppress(OSError):  # another command has just removed it
                if path.is_dir():
                    if not copy.exists():
                        swap.link_tree(path, copy)
                elif not copy.exists():
                    swap.link(path, copy)

    def publish(self) -> None:
        """Replaces the present run by this one, and removes what is left of unfinished runs."""
        if self._begun:
            self.gather()
            for entry in self.at.iterdir():
                swap.flush(entry)
            run_folder_publish.publish(self.at, self._real, self._descriptors)
            self.at, self._begun = self.home, False
        for leftover in (self._real / UNFINISHED, *_leftovers(self._real)):
            shutil.rmtree(leftover, ignore_errors=True)

    def leave(self) -> None:
        """Keeps the finished stage directories of an unfinished run, from which the next run continues."""
        if self._begun:
            _keep(self.at, self._real, self._descriptors)
        self.at, self._begun = self.home, False
        with suppress(OSError):
            self._real.rmdir()  # fails unless the folder is empty

    def _beside(self) -> Path | None:
        """A staging folder that can be exchanged for that of the run; None where that is impossible."""
        staging = self._real.with_name(_staging_prefix(self._real) + owner.name())
        try:
            if not run_folder_publish.is_exchangeable(self._real):
                return None
            staging.mkdir()
            shutil.copystat(self._real, staging)
            os.chown(staging, -1, self._real.stat().st_gid)
        except OSError:
            files.remove(staging)
            return None
        return staging

    def _inside(self) -> Path:
        staging = self._real / (MAKING + owner.name())
        staging.mkdir()
        return staging


@contextmanager
def open_run(home: Path) -> Iterator[Staging]:
    """The exclusive right to change the run in `home`; waits for other commands, and removes what killed ones left.

    Raises BadInput if the folder cannot be written.
    """
    try:
        with lock.locked(home) as descriptors:
            sweep_abandoned(home)
            staging = Staging(home, descriptors)
            with temporary_directory(Path(os.path.realpath(home))):
                pass
            try:
                yield staging
            except FileNotFoundError as error:
                if staging.at.is_dir():
                    raise
                problem = f"another deploytool changed {home} meanwhile"  # possible only where locks do not work
                raise BadInput(problem, "run the same command again") from error
            finally:
                staging.leave()
    except lock.Unwritable as error:
        raise BadInput(str(error), "choose another folder with --out") from error


@contextmanager
def temporary_directory(home: Path) -> Iterator[Path]:
    """A temporary folder with the name of this process, removed afterwards unless the body renames it."""
    temporary = home / (MAKING + owner.name())
    try:
        temporary.mkdir()
    except OSError as error:
        raise lock.Unwritable(f"cannot write to {home}: {error.strerror}") from error
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep_abandoned(home: Path) -> None:
    """Removes what killed commands left in and beside `home`, except one unfinished run from which to continue."""
    real = Path(os.path.realpath(home))
    run_folder_publish.recover(real)
    for temporary in real.glob(f"{MAKING}*"):
        if owner.read(temporary.name) is None or owner.is_abandoned(temporary):
            files.remove(temporary)
    files.sweep(real, f".*{files.UNFINISHED}")
    for leftover in _leftovers(real)[1:]:
        files.remove(leftover)


def sweep(home: Path) -> None:
    """Removes what this process was making in `home`, before the process is ended; keeps finished stage directories."""
    real = Path(os.path.realpath(home))
    for folder in (*_staging_folders(real), *real.glob(f"{MAKING}*")):
        if _is_own(folder):
            if (folder / STAGING).exists():
                _keep(folder, real, [])
            files.remove(folder)
    run_folder_publish.finish_own(real)
    sweep_abandoned(home)
    with suppress(OSError):
        real.rmdir()  # fails unless the folder is empty


def _is_own(folder: Path) -> bool:
    return owner.read(folder.name) == owner.read(owner.name())


def _staging_prefix(real: Path) -> str:
    """The prefix of the name of every staging folder beside a run's folder."""
    name = real.name
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return f".{name}{MAKING}"


def _staging_folders(real: Path) -> list[Path]:
    """Every staging folder beside a run's folder."""
    try:
        return [real.parent / name for name in os.listdir(real.parent) if name.startswith(_staging_prefix(real))]  # noqa: PTH208
    except OSError:
        return []


def _leftovers(real: Path) -> list[Path]:
    """The staging folders of killed commands beside a run's folder; the one with most finished stages first."""
    abandoned = [path for path in _staging_folders(real) if owner.is_abandoned(path)]
    return sorted(abandoned, key=lambda path: -len(list(path.glob(f"*/{receipt.FILE}"))))


def _keep(staging: Path, real: Path, descriptors: list[int]) -> None:
    """Keeps the finished stage directories of a staging folder: as the run itself if there is no finished run."""
    if not staging.is_dir():
        return
    for temporary in staging.glob(f"{MAKING}*"):
        files.remove(temporary)
    stages = [path for path in staging.iterdir() if run_folder_publish.is_stage_directory(path)]
    new = [directory for directory in stages if not _is_same_stage(directory, real / directory.name)]
    if not new:
        files.remove(staging)
    elif not run_folder_publish.is_stage_directory(real / _REPORT):
        run_folder_publish.publish(staging, real, descriptors)
    else:
        files.remove(real / UNFINISHED)
        with suppress(OSError):  # without locks, another command may do the same
            staging.rename(real / UNFINISHED)


def _is_same_stage(directory: Path, linked: Path) -> bool:
    """Whether two stage directories are links to the same files."""
    try:
        return (directory / receipt.FILE).samefile(linked / receipt.FILE)
    except OSError:
        return False
