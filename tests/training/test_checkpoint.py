"""Tests of checkpoints: they are written atomically, and reading one cannot run code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from deploytool.errors import BadInput
from deploytool.training import checkpoint
from deploytool.training.checkpoint import Checkpoint
from deploytool.training.recipe import Epoch, Score

EPOCH = Epoch(1, 0.01, Score(2.0, 0.1), Score(1.9, 0.2), 3.5)
SAVED = Checkpoint("key", (EPOCH,), {"weight": torch.arange(3.0)}, {"state": {}, "param_groups": []}, {})


def test_a_checkpoint_is_read_as_written(tmp_path: Path) -> None:
    assert checkpoint.read(tmp_path) is None
    checkpoint.write(tmp_path, SAVED)
    restored = checkpoint.read(tmp_path)
    assert restored is not None
    assert (restored.key, restored.history, restored.optimizer) == (SAVED.key, SAVED.history, SAVED.optimizer)
    assert torch.equal(restored.module["weight"], SAVED.module["weight"])


def test_an_interrupted_write_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write(tmp_path, SAVED)
    before = (tmp_path / checkpoint.FILE).read_bytes()

    def interrupted_write(path: Path, content: Any) -> None:
        with path.open("wb") as file:
            file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted_write)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(tmp_path, SAVED)
    assert (tmp_path / checkpoint.FILE).read_bytes() == before


class Trap:
    """A malicious pickle: unpickling it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch.save(Trap(f"touch '{tmp_path / 'executed'}'"), tmp_path / checkpoint.FILE)
    with pytest.raises(BadInput, match="not a training checkpoint"):
        checkpoint.read(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("length", [0, 10, 300])
def test_a_truncated_checkpoint_is_refused(length: int, tmp_path: Path) -> None:
    checkpoint.write(tmp_path, SAVED)
    path = tmp_path / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(BadInput, match="not a training checkpoint"):
        checkpoint.read(tmp_path)


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    (tmp_path / "curve.svg").write_text("old")
    interrupted = checkpoint.atomic_file(tmp_path / "curve.svg")
    interrupted.__enter__().write_text("ne")
    assert (tmp_path / "curve.svg").read_text() == "old"
    checkpoint.remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["curve.svg"]
    with checkpoint.atomic_file(tmp_path / "curve.svg") as unfinished:
        unfinished.write_text("new")
    assert (tmp_path / "curve.svg").read_text() == "new"
