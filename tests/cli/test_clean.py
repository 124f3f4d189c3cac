"""`deploytool clean` lists and removes leftovers; the note about an exported run expires with its last copy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deploytool.pipeline import trust
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
