"""The cache of a worker stays below its limit, and keeps what runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from deploytool.host import swap
from deploytool.sweeps import trim

HOUR = 3600.0


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Three mirrors with a file of 1,000 bytes each and a result of 100; `a` was used least recently."""
    for age, name in enumerate("cba", 1):
        kept, mirror = tmp_path / trim.FILES / name, tmp_path / trim.DISK / name
        kept.parent.mkdir(exist_ok=True)
        mirror.mkdir(parents=True)
        kept.write_bytes(bytes(1000))
        swap.link(kept, mirror / "weights")
        (mirror / "result").write_bytes(bytes(100))
        with trim.in_use(tmp_path, name):
            pass
        moment = time.time() - age * HOUR
        os.utime(tmp_path / "locks" / name, (moment, moment))
        os.utime(kept, (moment, 1.0))
    return tmp_path


def left(cache: Path) -> tuple[str, str]:
    """The names of the mirrors, and of the kept files."""
    mirrors, kept = (
        "".join(sorted(path.name for path in (cache / name).iterdir())) for name in (trim.DISK, trim.FILES)
    )
    return mirrors, kept


def test_what_was_not_used_for_longest_is_removed_until_it_fits(cache: Path) -> None:
    trim.trim(cache, 3300)
    assert left(cache) == ("abc", "abc")
    trim.trim(cache, 3299)
    assert left(cache) == ("bc", "abc")
    trim.trim(cache, 3199)
    assert left(cache) == ("bc", "bc")
    trim.touch(cache / trim.FILES / "b")
    assert (cache / trim.FILES / "b").stat().st_mtime == 1.0
    with trim.in_use(cache, "b"):
        pass
    trim.trim(cache, 1100)
    assert left(cache) == ("b", "b")
    trim.trim(cache, 0)
    assert left(cache) == ("b", "b"), "it was used a moment ago"


def test_what_runs_is_kept_however_old_it_is(cache: Path) -> None:
    with trim.in_use(cache, "a"):
        os.utime(cache / "locks" / "a", (1.0, 1.0))
        trim.trim(cache, 0)
        assert left(cache) == ("a", "a")
        assert (cache / trim.DISK / "a" / "result").is_file()


def test_files_that_no_mirror_has_are_removed_too(cache: Path) -> None:
    for name in ("d.part", "e"):
        (cache / trim.FILES / name).write_bytes(bytes(1000))
        os.utime(cache / trim.FILES / name, (1.0, 1.0))
    trim.trim(cache, 3300)
    assert left(cache) == ("abc", "abc")
