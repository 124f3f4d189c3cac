"""Reads the classes, or the tokens, of pictures from a CSV file with one line for each picture."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploytool.data.labels.labelled_images import LabelledImages, class_index, class_numbers, existing
from deploytool.errors import BadInput

_REMEDY = "write one line for each picture: FILE,LABEL"
_HEADS = {"file", "file_name", "filename", "filepath", "image", "image_name", "img", "name", "path", "picture"}


def read_classes(file: Path, folder: Path, classes: Sequence[str]) -> LabelledImages:
    """The pictures of the file with their classes: indices, or names of the model's classes or of the file's own.

    Raises BadInput as `_rows` does, and for an unknown class or a negative index.
    """
    rows = list(_rows(file, folder))
    targets = class_numbers([label for _, label in rows], file)
    if targets is not None:
        check_indices(file, targets, classes)
        return LabelledImages(tuple(path for path, _ in rows), targets, tuple(classes))
    ordered = tuple(classes) or tuple(sorted({label for _, label in rows}))
    indices = {name: index for index, name in enumerate(ordered)}
    named = tuple(class_index(label, indices, file) for _, label in rows)
    return LabelledImages(tuple(path for path, _ in rows), named, ordered)


def check_indices(file: Path, indices: Sequence[int], classes: Sequence[str]) -> None:
    """Raises BadInput for the index of a class that the model does not have."""
    if classes and max(indices) >= len(classes):
        problem = f"{file} has the class {max(indices)}, and the model {len(classes)} classes from 0 on"
        raise BadInput(problem, "correct it, or write names of classes")


def read_tokens(file: Path, folder: Path, classes: Sequence[str]) -> LabelledImages:
    """The pictures of the file with their tokens, separated by spaces; raises BadInput as `_rows` does."""
    rows = list(_rows(file, folder))
    return LabelledImages(
        tuple(path for path, _ in rows), tuple(tuple(label.split()) for _, label in rows), tuple(classes)
    )


def _rows(file: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """Each picture with its label.

    Raises BadInput if the file cannot be read, for a line without two columns, and for a picture that is missing or has
    two lines.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            lines = [(number, line) for number, line in enumerate(csv.reader(opened), 1) if any(line)]
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}", "check the path after --labels") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{file} is not a CSV file in UTF-8: {error}", _REMEDY) from error
    if lines and lines[0][1][0].strip().lower() in _HEADS:
        lines = lines[1:]
    if not lines:
        raise BadInput(f"{file} lists no picture", _REMEDY)
    seen = set[str]()
    for number, line in lines:
        if len(line) < 2 or not line[0].strip() or not line[1].strip():
            raise BadInput(f"{file} has no picture with a label in line {number}", f"{_REMEDY}, with a comma between")
        path = existing(folder, line[0].strip(), file)
        if os.path.normpath(path) in seen:  # a.png and ./a.png are one picture
            raise BadInput(f"{file} has two labels for {line[0].strip()}", "keep one line for each picture")
        seen.add(os.path.normpath(path))
        yield path, line[1].strip()
