"""Reads the images of a model: one folder of them, one folder for each image input, or a CSV file with a column each.

An item is one image for each image input. In folders, the images of an item share their name without the suffix.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploytool.data import image_folder
from deploytool.data.image_folder import Folder
from deploytool.data.labels.labelled_images import class_numbers, existing, is_file
from deploytool.errors import BadInput

LABEL = "label"  # the column with the class of each item
_SUFFIX = ".csv"


@dataclass(frozen=True)
class Items:
    """Items in a stable order: the paths of the images of each, in the order of the image inputs.

    `labels` are indices of classes, in `classes` where these have names; both are empty without labels.
    """

    paths: tuple[tuple[Path, ...], ...]
    classes: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()


def read(data: Path, inputs: Sequence[str], limit: int | None = None, seed: int = 0) -> Items:
    """The items of a folder or a CSV file for the image inputs with these names.

    With a limit, at most that many, balanced over the classes; the seed determines which. Raises BadInput if the data
    is missing, empty, incomplete, or is laid out in another way.
    """
    if is_table(data):
        items = _table(data, inputs)
    elif len(inputs) == 1:
        folder = image_folder.read(data)
        items = Items(tuple((path,) for path in folder.paths), folder.classes, folder.labels)
    else:
        items = _folders(data, inputs)
    if limit is None:
        return items
    chosen = image_folder.choose(items.labels or (0,) * len(items.paths), limit, seed)
    labels = tuple(items.labels[index] for index in chosen if items.labels)
    return Items(tuple(items.paths[index] for index in chosen), items.classes, labels)


def is_table(data: Path) -> bool:
    """Whether items are listed in a CSV file, and not in a folder."""
    return data.suffix.lower() == _SUFFIX and not data.is_dir()


def first_folder(data: Path, inputs: Sequence[str]) -> Path:
    """The folder that the names of images in labels are relative to: that of the first input."""
    if is_table(data):
        return data.parent
    return data if len(inputs) == 1 else data / inputs[0]


def files(table: Path) -> tuple[Path, ...]:
    """A CSV file and the files that it lists, each once; raises BadInput if it cannot be read."""
    cells = [cell for _, line in _lines(table, "write one line for each item") for cell in line if cell]
    listed = (table.parent / cell for cell in dict.fromkeys(cells))
    return table, *(path for path in listed if is_file(path))


def _folders(data: Path, inputs: Sequence[str]) -> Items:
    """The items of one sub-folder for each input, named like it."""
    listed = ", ".join(inputs)
    remedy = f"give one sub-folder for each image input: {listed}; or a CSV file with these columns"
    if not data.is_dir():
        raise BadInput(f"there is no folder {data}", "check the path")
    pictures, subfolders = image_folder.content(data)
    if pictures:
        raise BadInput(f"{data} holds pictures such as {pictures[0].name}, and the inputs are {listed}", remedy)
    names = [subfolder.name for subfolder in subfolders]
    if absent := [name for name in inputs if name not in names]:
        problem = f"{data} has no folder {absent[0]}, and the image inputs are {listed}"
        raise BadInput(problem, remedy)
    if unknown := [name for name in names if name not in inputs]:
        problem = f"{data} has the folder {unknown[0]}, and the image inputs are {listed}"
        raise BadInput(problem, "take it out, or correct its name")
    folders = [image_folder.read(data / name) for name in inputs]
    first, *others = (_by_name(folder, data / name) for folder, name in zip(folders, inputs, strict=True))
    for name, partners in zip(inputs[1:], others, strict=True):
        _check_partners((inputs[0], first), (name, partners))
    paths = tuple((path, *(partners[name] for partners in others)) for name, path in first.items())
    return Items(paths, folders[0].classes, folders[0].labels)


def _by_name(folder: Folder, root: Path) -> dict[str, Path]:
    """The images of a folder by their names without the suffix, those in the folder of a class with its name before."""
    found: dict[str, Path] = {}
    for path in folder.paths:
        name = path.relative_to(root).with_suffix("").as_posix()
        if name in found:
            problem = f"{root} holds {found[name].name} and {path.name}, which would be one item"
            raise BadInput(problem, "give each image of an input a name of its own")
        found[name] = path
    return found


def _check_partners(first: tuple[str, dict[str, Path]], other: tuple[str, dict[str, Path]]) -> None:
    """Raises BadInput unless two inputs, each with its name, have images of the same names."""
    for (name, images), (lacking, partners) in ((first, other), (other, first)):
        alone = next((item for item in images if item not in partners), None)
        if alone is not None:
            counts = f"{len(images)} of {name} and {len(partners)} of {lacking}"
            problem = f"{lacking} has no partner of {name}/{alone}{images[alone].suffix} ({counts} pictures)"
            raise BadInput(problem, f"add {lacking}/{alone}, or take the picture out")


def _table(file: Path, inputs: Sequence[str]) -> Items:
    """The items of a CSV file with a column for each input; the paths in it are relative to its folder."""
    remedy = f"write columns named {', '.join(inputs)}, optionally {LABEL}, and one line for each item"
    head, *lines = _lines(file, remedy)
    known = [*inputs, *([LABEL] if LABEL not in inputs else [])]
    if absent := [name for name in inputs if name not in head[1]]:
        raise BadInput(f"{file} has no column {absent[0]}: its columns are {', '.join(head[1])}", remedy)
    if len(set(head[1])) < len(head[1]) or not set(head[1]) <= set(known):
        other = next((name for name in head[1] if name not in known), max(head[1], key=head[1].count))
        raise BadInput(f"{file} has the column {other or 'without a name'}, which is unknown or there twice", remedy)
    if not lines:
        raise BadInput(f"{file} lists no item", remedy)
    rows = list[dict[str, str]]()
    for number, line in lines:
        if len(line) != len(head[1]) or not all(line):
            raise BadInput(f"{file} has an empty or missing column in line {number}", remedy)
        rows.append(dict(zip(head[1], line, strict=True)))
    paths = tuple(tuple(existing(file.parent, row[name], file) for name in inputs) for row in rows)
    _check_unique(file, paths)
    labels = [row[LABEL] for row in rows] if set(head[1]) > set(inputs) else []
    numbers = class_numbers(labels, file)
    if numbers is not None:
        return Items(paths, (), numbers)
    classes = sorted(set(labels))
    return Items(paths, tuple(classes), tuple(map(classes.index, labels)))


def _lines(file: Path, remedy: str) -> list[tuple[int, list[str]]]:
    """The lines of a CSV file that are not empty, with their numbers; there is at least one."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            lines = [(number, [cell.strip() for cell in line]) for number, line in enumerate(csv.reader(opened), 1)]
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}", "check the path after --data") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{file} is not a CSV file in UTF-8: {error}", remedy) from error
    kept = [(number, line) for number, line in lines if any(line)]
    if not kept:
        raise BadInput(f"{file} is empty", remedy)
    return kept


def _check_unique(file: Path, paths: Sequence[Sequence[Path]]) -> None:
    """Raises BadInput if two lines have the same images."""
    seen = set[tuple[str, ...]]()
    for item in paths:
        normal = tuple(map(os.path.normpath, item))  # a.png and ./a.png are one picture
        if normal in seen:
            raise BadInput(f"{file} lists {', '.join(path.name for path in item)} twice", "keep one line for each item")
        seen.add(normal)
