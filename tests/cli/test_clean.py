from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deploytool.pipeline import trust
from tests.conftest import Command, old


def test_it_shows_what_would_go_and_removes_it_when_told(deploytool: Command, tmp_path: Path, dead: str) -> None:
    left = [tmp_path / f".model.tar.{dead}.making", tmp_path / "artifacts" / "net" / f".making-{dead}"]
    for path in left:
        path.mkdir(parents=True)
        (path / "file").write_bytes(bytes(2_000_000))
    (tmp_path / "artifacts" / "net" / "precious").touch()
    shown = deploytool("clean")
    assert shown.returncode == 0, shown.stderr
    assert all(f"2.0 MB  {path}: process" in shown.stdout for path in left)
    assert "2 left behind, 4.0 MB: nothing was removed yet (--yes does)." in shown.stdout
    assert all(path.is_dir() for path in left)
    done = deploytool("clean", "--yes", "--json")
    assert [item["path"] for item in json.loads(done.stdout)["found"]] == [str(path) for path in left]
    assert not any(path.exists() for path in left)
    assert (tmp_path / "artifacts" / "net" / "precious").exists()
    assert deploytool("clean", "artifacts").stdout == "Nothing was left behind.\n"
    assert deploytool("clean", "nowhere").returncode == 2


def test_a_note_goes_with_the_last_run_that_it_is_of(
    run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    again = Path(shutil.copytree(run_copy, tmp_path / "again"))
    for run in (run_copy, again, run_copy):
        trust.note(run)
    (note,) = (tmp_path / "home" / ".local" / "state" / "deploytool" / "exported").iterdir()
    assert json.loads(note.read_text()) == [str(run_copy), str(again)]
    trust.check(run_copy, trust_code=False)
    old(note)
    assert trust.expired() == []
    shutil.rmtree(run_copy)
    assert trust.expired() == []
    shutil.rmtree(again)
    assert trust.expired() == [note]
    note.touch()
    assert trust.expired() == []


@pytest.mark.parametrize("content", ["", "{}", '["a"', "[5]"])
def test_a_note_that_names_no_run_stays_and_counts(
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
