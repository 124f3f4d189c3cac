"""The names of the classes that a model scores: from a file, held against its outputs, and fit to be shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploytool.errors import BadInput
from deploytool.spec import CLASSES, Model, Tensor

_LONGEST = 1 << 20  # bytes of a file of names


def read(path: Path) -> tuple[str, ...]:
    """The names in a file, one a line, in the order of the scores.

    Raises BadInput if the file cannot be read, is no text, or has an empty line before its last name.
    """
    try:
        with path.open("rb") as opened:
            text = opened.read(_LONGEST + 1)
        names = [line.strip() for line in text.decode("utf-8-sig").splitlines()]
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", "check the path after --classes") from error
    except UnicodeDecodeError:
        raise BadInput(f"{path} is no text in UTF-8", "write one name a line") from None
    while names and not names[-1]:
        names.pop()
    if not names or len(text) > _LONGEST:
        raise BadInput(f"{path} holds no names of classes", "write one name a line")
    if "" in names:
        problem = f"{path} has no name in line {names.index('') + 1}, and every line is a class"
        raise BadInput(problem, "fill that line, or take it out")
    return tuple(map(display_names, names))


def scored(outputs: Sequence[Tensor], names: Sequence[str]) -> bool:
    """Whether an output has a score, or a map of scores, for each of these names."""
    return any(tensor.shape[1:2] == (len(names),) for tensor in outputs)


def check_count(model: Model, folder: Sequence[str]) -> tuple[str, ...]:
    """The names that fit the model's outputs: its own, or else those of a folder of pictures; none if neither do.

    Raises BadInput if the user gave other names than there are scores.
    """
    if model.classes and scored(model.outputs, model.classes):
        return model.classes
    if CLASSES in model.asked:
        gives = ", ".join(f"{each.name} {' × '.join(map(str, each.shape))}" for each in model.outputs)
        problem = f"--classes names {len(model.classes)} classes, and {model.name} gives {gives}"
        raise BadInput(problem, "give one name for each score, in their order")
    return tuple(map(display_names, folder)) if folder and scored(model.outputs, folder) else ()


def display_names(name: str) -> str:
    """A name without what would disturb a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
