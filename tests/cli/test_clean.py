"""`deploytool clean` lists and removes leftovers; the note about an exported run expires with its last copy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deploytool import serde
from deploytool.pipeline import trust
from deploytool.results.sweep import FILE, LOCK, OWN, SCHEMA, SHARED, Cell, CellResult, CellState, Sweep
from tests.conftest import Command, old


def test_leftovers_are_listed_and_removed_with_yes(deploytool: Command, tmp_path: Path, dead: str) -> None:
    leftovers = [tmp_path / f".model.tar.{dead}.making", tmp_path / "artifacts" / "net" / f".making-{dead}"]
    for path in leftovers:
        path.mkdir(parents=True)
        (path / "file").write_bytes(bytes(2_000_000))
    (tmp_path / "artifacts" / "net" / "precious").touch()
    listed = deploytool("clean")
    assert listed.returncode == 0, listed.stderr
    assert all(f"2.0 MB  {path}: process" in listed.stdout for path in leftovers)
    assert "2 left behind, 4.0 MB: nothing was removed yet (--yes does)." in listed.stdout
    assert all(path.is_dir() for path in leftovers)
    done = deploytool("clean", "--yes", "--json")
    assert [item["path"] for item in json.loads(done.stdout)["found"]] == [str(path) for path in leftovers]
    assert not any(path.exists() for path in leftovers)
    assert (tmp_path / "artifacts" / "net" / "precious").exists()
    assert deploytool("clean", "artifacts").stdout == "Nothing was left behind.\n"
    assert deploytool("clean", "nowhere").returncode == 2


def test_what_a_sweep_left_is_listed(deploytool: Command, tmp_path: Path, dead: str, run_copy: Path) -> None:
    """Files of killed processes in cells and shared stages, half-fetched runs, and stages that no cell has any more."""
    home = tmp_path / "artifacts" / "sweep"
    cell = Cell("net", "net")
    shared, unused = home / SHARED / "a", home / SHARED / "b"
    for folder in (home / "net", shared, unused):
        (folder / "load").mkdir(parents=True)
        shutil.copy2(run_copy / "load" / "receipt.json", folder / "load")
    changed = json.loads((unused / "load" / "receipt.json").read_text())
    (unused / "load" / "receipt.json").write_text(json.dumps({**changed, "key": "0" * 64}))
    found = [home / "net" / f".making-{dead}", shared / f".making-{dead}", home / SHARED / f".a.staging-{dead}"]
    for path in (*found, home / OWN / "incoming-0"):
        path.mkdir(parents=True)
    (home / OWN / LOCK).touch()

    def listed(state: CellState) -> set[str]:
        (home / FILE).write_text(serde.text(Sweep(SCHEMA, {}, {}, (CellResult(cell, state, "net"),), 0.0)))
        return {item["path"] for item in json.loads(deploytool("clean", "--json").stdout)["found"]}

    assert listed(CellState.PASSED) == {str(path) for path in found}, "the rest is new"
    for path in (home / OWN / "incoming-0", *(each for each in home.rglob("*") if SHARED in each.parts)):
        old(path)
    assert listed(CellState.PENDING) == {str(path) for path in (*found, home / OWN / "incoming-0")}
    assert listed(CellState.PASSED) == {str(path) for path in (*found, home / OWN / "incoming-0", unused)}
    assert deploytool("clean", "--yes").returncode == 0
    assert (shared / "load" / "receipt.json").is_file()
    assert not unused.exists()


def test_a_note_expires_when_the_last_copy_of_its_run_is_deleted(
    run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    second = Path(shutil.copytree(run_copy, tmp_path / "second"))
    for run in (run_copy, second, run_copy):
        trust.note(run)
    (note,) = (tmp_path / "home" / ".local" / "state" / "deploytool" / "exported").iterdir()
    assert json.loads(note.read_text()) == [str(run_copy), str(second)]
    trust.check(run_copy, trust_code=False)
    old(note)
    assert trust.expired() == []
    shutil.rmtree(run_copy)
    assert trust.expired() == []
    shutil.rmtree(second)
    assert trust.expired() == [note]
    note.touch()
    assert trust.expired() == []


@pytest.mark.parametrize("content", ["", "{}", '["a"', "[5]"])
def test_a_note_without_a_run_is_valid_and_does_not_expire(
    run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    trust.note(run_copy)
    (note,) = (tmp_path / "home" / ".local" / "state" / "deploytool" / "exported").iterdir()
    note.write_text(content)
    old(note)
    assert trust.expired() == []
    trust.check(run_copy, trust_code=False)
    trust.note(run_copy)
    assert json.loads(note.read_text()) == [str(run_copy)]
