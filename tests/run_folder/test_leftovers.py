from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploytool.host import files, locks
from deploytool.run_folder import leftovers, publish
from tests.conftest import ROOT, old

_NAMED = "from deploytool.host import owner; print(owner.name(), flush=True); input()"
Make = Callable[[Path, str], Path]


@pytest.fixture(scope="module")
def living() -> Iterator[str]:
    command = [sys.executable, "-c", _NAMED]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate("\n")


def _make_sibling(folder: Path, name: str) -> Path:
    created = folder.with_name(f".{folder.name}.making-{name}")
    (created / "load").mkdir(parents=True)
    (created / "load" / "weights").write_bytes(bytes(1000))
    return created


def _make_folder(folder: Path, name: str) -> Path:
    (folder / f".making-{name}").mkdir()
    return folder / f".making-{name}"


def _make_file(folder: Path, name: str) -> Path:
    (folder / f".model.tar.{name}.making").write_bytes(bytes(1000))
    return folder / f".model.tar.{name}.making"


def _make_folder_in_run(folder: Path, name: str) -> Path:
    (folder / "run").mkdir(exist_ok=True)
    return _make_folder(folder / "run", name)


def _make_staging(folder: Path, name: str) -> Path:
    (folder / f".staging-{name}").mkdir()
    return folder / f".staging-{name}"


_MAKERS: list[Make] = [_make_sibling, _make_folder, _make_file, _make_folder_in_run, _make_staging]


def paths(folder: Path) -> list[Path]:
    return [Path(item.path) for item in leftovers.find(folder)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.parametrize("make", _MAKERS)
def test_a_folder_of_a_dead_process_is_found_and_removed(folder: Path, dead: str, make: Make) -> None:
    created = make(folder, dead)
    (item,) = leftovers.find(folder)
    assert (item.path, item.why) == (str(created), f"process {dead.split('-')[1]} was making it, and is gone")
    assert item.size == (1000 if make in (_make_sibling, _make_file) else 0)
    assert created.exists()
    assert leftovers.remove([item]) == []
    assert not created.exists()


@pytest.mark.parametrize("make", _MAKERS)
def test_a_folder_of_a_living_process_is_kept(folder: Path, living: str, make: Make) -> None:
    old(make(folder, living))
    assert paths(folder) == []


@pytest.mark.parametrize("make", _MAKERS)
def test_a_folder_of_another_machine_is_a_leftover_only_when_old(folder: Path, make: Make) -> None:
    created = make(folder, "fffffffffff0-1-1-00000000")
    assert paths(folder) == []
    old(created)
    assert paths(folder) == [created]


@pytest.mark.parametrize(
    "name",
    [
        ".making-of-a-film",
        "x.making",
        ".model.tar.making",
        "making-{}",
        "{}",
        "x-{}.making",
        ".staging",
        ".{}.fetching",
    ],
)
def test_a_foreign_folder_with_a_similar_name_is_kept(folder: Path, dead: str, name: str) -> None:
    (folder / name.format(dead)).mkdir()
    old(folder)
    assert paths(folder) == []


def test_a_link_and_its_target_are_kept(folder: Path, tmp_path: Path, dead: str) -> None:
    (tmp_path / "precious").mkdir()
    (folder / f".making-{dead}").symlink_to(tmp_path / "precious")
    (folder / "link").symlink_to(tmp_path / "precious")
    _make_folder(tmp_path / "precious", dead)
    old(folder)
    assert paths(folder) == []


def test_a_link_inside_a_leftover_is_not_followed(folder: Path, tmp_path: Path, dead: str) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(bytes(5000))
    created = _make_folder(folder, dead)
    (created / "link").symlink_to(tmp_path / "precious")
    (item,) = leftovers.find(folder)
    assert item.size < 1000
    leftovers.remove([item])
    assert (tmp_path / "precious" / "file").exists()


def test_a_folder_of_another_user_is_kept(folder: Path, dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _make_folder(folder, dead)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert paths(folder) == []


def _unfinished(run: Path) -> Path:
    for directory in ("validate", f"{publish.UNFINISHED}/load"):
        (run / directory).mkdir(parents=True)
        (run / directory / "receipt.json").write_text("{}")
    return run / publish.UNFINISHED


def test_an_unfinished_run_is_a_leftover_when_old_and_unlocked(folder: Path) -> None:
    leftover = _unfinished(folder / "run")
    assert paths(folder) == []
    old(leftover)
    descriptor = os.open(folder / "run", os.O_RDONLY)
    assert locks.acquire(descriptor)
    assert paths(folder) == []
    os.close(descriptor)
    assert paths(folder) == [leftover]
    (leftover / "notes.txt").write_text("mine")
    old(leftover)
    assert paths(folder) == []


def test_an_interrupted_fetch_is_a_leftover_when_old_and_unlocked(folder: Path) -> None:
    fetch = folder / ".model.fetching"
    (fetch / ("0" * 64) / "tree").mkdir(parents=True)
    (fetch / "lock").touch()
    assert paths(folder) == []
    old(fetch)
    descriptor = os.open(fetch / "lock", os.O_RDWR)
    assert locks.acquire(descriptor)
    assert paths(folder) == []
    os.close(descriptor)
    assert paths(folder) == [fetch]
    (fetch / "holiday.jpg").touch()
    old(fetch)
    assert paths(folder) == []


def test_a_partial_file_of_a_training_is_a_leftover_when_old(folder: Path) -> None:
    (folder / "train").mkdir()
    leftover = folder / "train" / "checkpoint.pt.unfinished"
    leftover.touch()
    old(leftover)
    assert paths(folder) == []  # there is no training
    (folder / "train" / "checkpoint.pt").touch()
    assert paths(folder) == [leftover]


def test_publishing_a_file_removes_its_leftovers(folder: Path, dead: str, living: str) -> None:
    leftover, foreign, running = (folder / f".{name}.making" for name in (f"a.{dead}", f"b.{dead}", f"a.{living}"))
    for path in (leftover, foreign, running):
        path.touch()
    files.publish(folder / "a", b"new")
    assert {path.name for path in folder.iterdir()} == {"a", foreign.name, running.name}
