"""Pictures with what is known of each of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from deploytool.errors import BadInput
from deploytool.tasks.annotations import Boxes

_LONGEST = 200  # characters of a name in a message
_LISTED = 5  # names of classes in a message
_NUMBER = re.compile(r"(-?\d{1,9})(\.0*)?")  # 3, and 3.0 as pandas writes it; what is longer is a name

Target: TypeAlias = int | Boxes | Path | tuple[str, ...] | None  # class, objects, file of a mask, tokens, nothing


@dataclass(frozen=True)
class LabelledImages:
    """Pictures in a stable order, and the target of each; `classes` are names in the order of the indices, if known.

    For a model with several image inputs, `paths` are the pictures of the first, and `partners` those of the others for
    each of them.
    """

    paths: tuple[Path, ...]
    targets: tuple[Target, ...]
    classes: tuple[str, ...] = ()
    partners: tuple[tuple[Path, ...], ...] = ()

    @property
    def items(self) -> tuple[tuple[Path, ...], ...]:
        """The pictures of each item, in the order of the image inputs."""
        further = self.partners or ((),) * len(self.paths)
        return tuple((path, *others) for path, others in zip(self.paths, further, strict=True))


def existing(folder: Path, name: str, source: Path) -> Path:
    """The picture of that name in a folder; raises BadInput if there is none, or if the name leads out of it."""
    path = folder / name
    if is_file(path) is None:
        raise BadInput(f"{source} names {shortened(name)}, which no file can be", "correct the name, or --data")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadInput(
            f"{source} names {shortened(name)}, which is outside {folder}", "write names relative to the folder"
        )
    if not path.is_file():
        raise BadInput(f"{source} names {shortened(name)}, which is not in {folder}", "correct the name, or --data")
    return path


def shortened(name: str) -> str:
    """A name in quotes, as it is in Python, without the middle of a long one."""
    return repr(name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2]}…{name[-_LONGEST // 2 :]}")


def is_file(path: Path) -> bool | None:
    """Whether a path is that of a file; None if it cannot be: with a zero byte, too long, or a loop of links."""
    try:
        return path.resolve(strict=False).is_file()
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a loop, up to Python 3.12
        return None


def class_index(name: str, classes: dict[str, int], source: Path) -> int:
    """The index of a class by its name; raises BadInput for an unknown one."""
    if name not in classes:
        known = ", ".join([*list(classes)[:_LISTED], *(["…"] if len(classes) > _LISTED else [])])
        raise BadInput(f"{source} names the unknown class {shortened(name)}", f"the model's classes are: {known}")
    return classes[name]


def class_numbers(labels: Sequence[str], source: Path) -> tuple[int, ...] | None:
    """The indices of classes that labels are; None if one of them is a name. Raises BadInput for a negative number."""
    found = [_NUMBER.fullmatch(label) for label in labels]
    numbers = tuple(int(match[1]) for match in found if match)
    if len(numbers) < len(labels):
        return None
    negative = next((label for label, number in zip(labels, numbers, strict=True) if number < 0), None)
    if negative is not None:
        problem = f"{source} has the class {negative}, and classes are counted from 0"
        raise BadInput(problem, "leave out what has no class, or write names of classes")
    return numbers
