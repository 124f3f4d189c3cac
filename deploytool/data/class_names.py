"""Class names: read from a file, checked against the model's outputs, and cleaned for display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deploytool.errors import BadInput
from deploytool.spec import CLASSES_OPTION, Model, Task, Tensor

_MAX_BYTES = 1 << 20  # of a file of names


def read(path: Path) -> tuple[str, ...]:
    """The names in a file, one per line, in the order of the scores.

    Raises BadInput if the file cannot be read, is not UTF-8 text, or has an empty line before its last name.
    """
    try:
        with path.open("rb") as opened:
            text = opened.read(_MAX_BYTES + 1)
        names = [line.strip() for line in text.decode("utf-8-sig").splitlines()]
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", "check the path after --classes") from error
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not text in UTF-8", "write one name per line") from None
    while names and not names[-1]:
        names.pop()
    if not names or len(text) > _MAX_BYTES:
        raise BadInput(f"{path} holds no names of classes", "write one name per line")
    if "" in names:
        problem = f"{path} has no name in line {names.index('') + 1}, and every line is a class"
        raise BadInput(problem, "fill that line, or take it out")
    return tuple(map(display_names, names))


def scored(outputs: Sequence[Tensor], names: Sequence[str]) -> bool:
    """Whether an output has one score, or one map of scores, for each name."""
    return any(tensor.shape[1:2] == (len(names),) for tensor in outputs)


def _holds_indices(model: Model) -> bool:
    """Whether the outputs may hold indices of classes instead of a score for each, so that no number can be checked."""
    has_integers = any(np.dtype(tensor.dtype).kind in "iu" for tensor in model.outputs)
    return model.task in (Task.DETECT, Task.TOKENS) or (model.task is Task.SEGMENT and has_integers)


def check_count(model: Model, folder: Sequence[str]) -> tuple[str, ...]:
    """The names that fit the model's outputs: its own, or else those of an image folder; none if neither fit.

    Raises BadInput if the number of names that the user gave differs from the number of scores.
    """
    if model.classes and (scored(model.outputs, model.classes) or _holds_indices(model)):
        return model.classes
    if CLASSES_OPTION in model.asked:
        shapes = ", ".join(f"{output.name} {' × '.join(map(str, output.shape))}" for output in model.outputs)
        problem = f"--classes names {len(model.classes)} classes, and {model.name} gives {shapes}"
        raise BadInput(problem, "give one name for each score, in their order")
    return tuple(map(display_names, folder)) if folder and scored(model.outputs, folder) else ()


def display_names(name: str) -> str:
    """A name with unprintable characters replaced by `?`."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
