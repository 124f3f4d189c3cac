"""A bundle that fails to start by its own fault is given up; other starts do not count."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploytool.bundle.manifest import manifest_digest
from deploytool.device import install, start_attempts
from deploytool.device.install import Pointer
from deploytool.errors import BadInput, Refused
from tests.conftest import ROOT
from tests.device.small import accept, make_bundle


def fail_to_start(root: Path, times: int) -> None:
    for _ in range(times):
        start_attempts.record(install.start_records(root, install.bundle_to_start(root).current), "it answers wrongly")


def test_three_failed_starts_roll_back_and_refuse_the_bundle(packed: Path, root: Path, tmp_path: Path) -> None:
    first, second = make_bundle(packed, tmp_path / "a", 1, 1), make_bundle(packed, tmp_path / "b", 2, 2)
    install.install(first, root, accept)
    install.install(second, root, accept)
    fail_to_start(root, 2)
    assert install.bundle_to_start(root).current == manifest_digest(second)
    fail_to_start(root, 1)
    reason = "it failed to start 3 times in a row, most recently: it answers wrongly"
    assert install.bundle_to_start(root) == Pointer(manifest_digest(first), None, 2, {manifest_digest(second): reason})
    with pytest.raises(Refused, match=reason):
        install.install(second, root, accept)


def test_a_refused_bundle_can_be_pardoned(packed: Path, root: Path, tmp_path: Path) -> None:
    first, second = make_bundle(packed, tmp_path / "a", 1, 1), make_bundle(packed, tmp_path / "b", 2, 2)
    install.install(first, root, accept)
    install.install(second, root, accept)
    fail_to_start(root, 3)
    assert install.bundle_to_start(root).current == manifest_digest(first)
    with pytest.raises(BadInput, match="does not name one bundle"):
        install.pardon(root, manifest_digest(first))
    assert install.pardon(root, manifest_digest(second)[:12]).refused == {}
    assert install.install(second, root, accept).current == manifest_digest(second)
    assert install.bundle_to_start(root).current == manifest_digest(second)


def test_a_successful_start_clears_earlier_failures(packed: Path, root: Path, tmp_path: Path) -> None:
    for number, name in enumerate("ab", 1):
        install.install(make_bundle(packed, tmp_path / name, number, number), root, accept)
    current = install.bundle_to_start(root).current
    for _ in range(3):
        fail_to_start(root, 2)
        start_attempts.forget(install.start_records(root, current))
    assert install.bundle_to_start(root).current == current


def test_starts_in_progress_are_not_failures(packed: Path, root: Path, tmp_path: Path) -> None:
    for number, name in enumerate("ab", 1):
        install.install(make_bundle(packed, tmp_path / name, number, number), root, accept)
    current = install.bundle_to_start(root).current
    folder = install.start_records(root, current)
    with (
        start_attempts.attempting(folder),
        start_attempts.attempting(folder),
        start_attempts.attempting(folder),
        start_attempts.attempting(folder),
    ):
        assert install.bundle_to_start(root).current == current
    assert not start_attempts.failures(folder)


def test_processes_that_die_while_loading_count_as_failures(packed: Path, root: Path, tmp_path: Path) -> None:
    for number, name in enumerate("ab", 1):
        install.install(make_bundle(packed, tmp_path / name, number, number), root, accept)
    current = install.bundle_to_start(root).current
    folder = install.start_records(root, current)
    program = """
import os, sys
from pathlib import Path
from deploytool.device import start_attempts
with start_attempts.attempting(Path(sys.argv[1])):
    os.abort()
"""
    for count in range(1, 4):
        assert install.bundle_to_start(root).current == current
        subprocess.run([sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True, check=False)
        assert len(start_attempts.failures(folder)) == count
    assert install.bundle_to_start(root).current != current


def test_a_service_terminated_while_loading_is_no_failure(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from deploytool.device import start_attempts
with start_attempts.attempting(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGTERM)
    print("loaded", flush=True)
print("still here")
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout.split() == ["loaded"]
    assert not start_attempts.failures(tmp_path)


def test_a_reason_may_contain_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    start_attempts.record(tmp_path, "recipe.json\udcff is not in the manifest")
    assert start_attempts.failures(tmp_path) == ("recipe.json\\udcff is not in the manifest",)
    long = tmp_path / "long"
    start_attempts.record(long, "\udcff" * 4096)
    (reason,) = start_attempts.failures(long)
    assert reason.startswith("\\udcff\\udcff")


def test_starts_are_not_counted_where_the_root_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    start_attempts.record(tmp_path / "file" / "starts", "why")
    with start_attempts.attempting(tmp_path / "file" / "starts"):
        pass
    assert not start_attempts.failures(tmp_path / "file" / "starts")


def test_without_a_previous_bundle_the_current_one_is_started_again(packed: Path, root: Path, tmp_path: Path) -> None:
    source = make_bundle(packed, tmp_path / "a", 1, 1)
    install.install(source, root, accept)
    fail_to_start(root, 5)
    assert install.bundle_to_start(root).current == manifest_digest(source)
