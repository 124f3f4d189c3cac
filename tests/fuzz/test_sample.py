"""A few cases of each campaign: what `make fuzz` does ten thousand times works, and finds nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploytool import files
from tests.fuzz import ground, run
from tests.fuzz.ground import Ground
from tests.fuzz.run import Batch

SEED = 7


@pytest.fixture(scope="module")
def there(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return ground.made(tmp_path_factory.mktemp("ground") / "ground", packed.parents[1])


def found(kind: str, count: int, there: Ground, bench: Path) -> Batch:
    kept = bench / "kept.jsonl"
    run.batch(kind, there, SEED, range(count), kept, measures=False)
    return run.read(kept)


@pytest.mark.parametrize(("kind", "count"), [("bundles", 36), ("documents", 30), ("graphs", 24), ("pictures", 30)])
def test_nothing_is_let_through_and_nothing_breaks(kind: str, count: int, there: Ground, tmp_path: Path) -> None:
    seen = found(kind, count, there, tmp_path)
    assert seen.faults == []
    assert seen.cases == count
    assert len(seen.whats) > count / 5
    assert seen.commands >= count


def test_a_guard_that_is_gone_is_noticed(there: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The campaign itself can fail: without digests, bundles are let through."""

    def held(blocks: object, path: object, size: int, sha256: str) -> object:
        return iter(lambda: blocks.read(1 << 20), b"")  # type: ignore[attr-defined]  # a file

    monkeypatch.setattr(files, "held", held)
    assert any("ended with 0" in fault for fault in found("bundles", 36, there, tmp_path).faults)
