"""Writes and reads the state of a training after an epoch; the file is replaced atomically and cannot run code."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deploytool import serde
from deploytool.errors import BadInput
from deploytool.host import disk
from deploytool.training.recipe import Epoch

FILE, UNFINISHED = "checkpoint.pt", ".unfinished"
State = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The epochs so far, the states of model and optimizer after the last one, and the model's after the best one.

    The learning rate and the random numbers depend on the epoch's number, so they are not stored.
    """

    key: str
    history: tuple[Epoch, ...]
    module: State
    optimizer: dict[str, Any]
    best: State


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Replaces the previous checkpoint atomically."""
    content = {**vars(checkpoint), "history": serde.encode(checkpoint.history)}
    with atomic_file(folder / FILE) as unfinished:
        buffer = io.BytesIO()  # writing to a file, torch reports a full disk as a wrong position
        torch.save(content, buffer)
        unfinished.write_bytes(buffer.getbuffer())


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path that replaces `path` when the block ends without an error."""
    unfinished = path.with_name(f"{path.name}{UNFINISHED}")
    with disk.writing(unfinished, named=path):
        yield unfinished
    unfinished.replace(path)


def remove_unfinished(folder: Path) -> None:
    """Deletes the temporary files that an interruption left."""
    for path in folder.glob(f"*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint in a folder, None if there is none; raises BadInput if the file is not a checkpoint."""
    if not (folder / FILE).is_file():
        return None
    try:
        content = torch.load(folder / FILE, map_location="cpu", weights_only=True)
        history = tuple(serde.decode(Epoch, record) for record in content.pop("history"))
        return Checkpoint(history=history, **content)
    except Exception as error:  # torch raises different errors for different damage
        raise BadInput(
            f"{folder / FILE} is not a training checkpoint", "start again with --no-resume, or choose another --out"
        ) from error
