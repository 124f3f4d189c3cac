from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploytool.device import clean, install
from deploytool.errors import BadInput
from deploytool.host import locks
from deploytool.run_folder import leftovers
from tests.conftest import ROOT, old
from tests.transfer import small


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with two bundles, and a third that the pointer does not name."""
    for sequence in (1, 2):
        folder = small.make_bundle(tmp_path / f"bundle{sequence}", sequence, 300, sequence)
        install.install(folder, tmp_path / "root", lambda checked: None)
    unused = tmp_path / "root" / "bundles" / ("0" * 64)
    shutil.copytree(tmp_path / "bundle1", unused)
    return tmp_path / "root"


def names(root: Path) -> set[str]:
    return {str(Path(item.path).relative_to(root)) for item in clean.find_leftovers(root)}


def test_current_and_previous_bundles_are_kept_and_leftovers_removed(root: Path, dead: str) -> None:
    assert names(root) == set()
    left = {
        f"bundles/{'0' * 64}",
        f".staging-{dead}",
        f".current.{dead}.making",
        "received/.incoming",
        "received/.installing-1",
        "received/.key-abc.pem",
        f"starts/{'1' * 64}",
    }
    for name in left - {f"bundles/{'0' * 64}"}:
        (root / name).mkdir(parents=True)
    old(root)
    pointer = install.read_pointer(root)
    assert pointer is not None
    assert names(root) == left
    assert leftovers.remove(clean.find_leftovers(root)) == []
    assert names(root) == set()
    assert install.read_pointer(root) == pointer
    assert all(install.bundle_path(root, digest).is_dir() for digest in (pointer.current, pointer.previous or ""))


def test_an_engine_of_a_killed_build_is_a_leftover(root: Path, dead: str) -> None:
    found = install.read_pointer(root)
    assert found is not None
    built = root / "bundles" / f"{found.current}.built"
    (built / f".making-{dead}-abc").mkdir(parents=True)
    (built / "model.plan").touch()
    assert names(root) == {f"bundles/{built.name}/.making-{dead}-abc"}


def test_nothing_locked_by_an_install_or_a_ship_is_a_leftover(root: Path) -> None:
    stage = root / "received" / ".incoming"
    stage.mkdir(parents=True)
    (stage / "lock").touch()
    old(root)
    descriptors = [os.open(path, os.O_RDONLY) for path in (root / ".lock", stage / "lock")]
    assert all(map(locks.acquire, descriptors))
    assert names(root) == set()
    for descriptor in descriptors:
        os.close(descriptor)
    assert names(root) == {f"bundles/{'0' * 64}", "received/.incoming"}


def test_a_folder_that_is_no_install_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not an install root"):
        clean.find_leftovers(tmp_path)


def test_the_command_lists_first_and_removes_with_yes(root: Path) -> None:
    old(root)

    def run_clean(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploytool.device", "clean", str(root), *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    left = root / "bundles" / ("0" * 64)
    shown = run_clean().stdout.splitlines()
    assert shown[0].endswith(f"{left}: neither the current bundle nor the previous one")
    assert shown[1].startswith("1 left behind, ")
    assert left.is_dir()
    found = json.loads(run_clean("--yes", "--json").stdout)["result"]
    assert (found["gone"], found["kept"], len(found["found"])) == (True, [], 1)
    assert not left.exists()
    assert run_clean().stdout == "Nothing was left behind.\n"
