"""Where a training stands after an epoch, in one file that is whole or not there and cannot run code."""

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
    """The epochs so far, the model and its optimizer after the last of them, and the model after the best.

    The learning rate and all that is random follow from the epoch's number, so neither needs to be kept.
    """

    key: str
    history: tuple[Epoch, ...]
    module: State
    optimizer: dict[str, Any]
    best: State


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Puts the checkpoint in the place of the one before, in one step that cannot be interrupted."""
    content = {**vars(checkpoint), "history": serde.encode(checkpoint.history)}
    with atomic_file(folder / FILE) as unfinished:
        made = io.BytesIO()  # given a file, torch would say of a full disk that a position is wrong
        torch.save(content, made)
        unfinished.write_bytes(made.getbuffer())


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Where to write a file that is to be seen whole or not at all."""
    unfinished = path.with_name(f"{path.name}{UNFINISHED}")
    with disk.writing(unfinished, named=path):
        yield unfinished
    unfinished.replace(path)


def remove_unfinished(folder: Path) -> None:
    """Takes away what an interruption left unfinished."""
    for left in folder.glob(f"*{UNFINISHED}"):
        left.unlink(missing_ok=True)


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint of a folder, None if there is none; raises BadInput if the file is something else."""
    if not (folder / FILE).is_file():
        return None
    try:
        content = torch.load(folder / FILE, map_location="cpu", weights_only=True)
        history = tuple(serde.decode(Epoch, record) for record in content.pop("history"))
        return Checkpoint(history=history, **content)
    except Exception as error:  # what torch raises depends on where the file is broken
        raise BadInput(
            f"{folder / FILE} is no checkpoint of a training", "begin anew with --no-resume, or choose another --out"
        ) from error
