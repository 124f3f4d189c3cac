"""A folder of pictures: flat, or with one sub-folder a class, whose sorted names are the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploytool.errors import BadInput

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm")


@dataclass(frozen=True)
class Folder:
    """Pictures in the order of their names; `labels` are places in `classes`, and a flat folder has neither."""

    paths: tuple[Path, ...]
    classes: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()


def read(folder: Path, limit: int | None = None, seed: int = 0) -> Folder:
    """The pictures of a folder; with a limit, at most that many, of each class as many as of the others.

    Which ones a limit leaves is drawn by the seed. Raises BadInput if the folder is missing or empty, or if it mixes
    pictures with folders.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}", "check the path")
    pictures, below = _content(folder)
    if pictures and below:
        raise BadInput(
            f"{folder} holds both pictures and folders, such as {pictures[0].name} and {below[0].name}",
            "keep pictures only, or one sub-folder a class",
        )
    found = _classes(below) if below else Folder(tuple(pictures))
    if not found.paths:
        raise BadInput(f"{folder} holds no picture", "give a folder of pictures, or of one sub-folder a class")
    return found if limit is None else _subset(found, limit, seed)


def _content(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures and the folders right inside a folder, sorted by name; what is hidden does not count."""
    inside = sorted((path for path in folder.iterdir() if path.name[0] != "."), key=lambda path: path.name)
    pictures = [path for path in inside if path.suffix.lower() in SUFFIXES and path.is_file()]
    return pictures, [path for path in inside if path.is_dir()]


def _classes(below: Sequence[Path]) -> Folder:
    paths: list[Path] = []
    labels: list[int] = []
    for label, place in enumerate(below):
        pictures, deeper = _content(place)
        if deeper or not pictures:
            holds = f"the folder {deeper[0].name}" if deeper else "no picture"
            raise BadInput(f"{place} is not the folder of a class: it holds {holds}", "keep only pictures in it")
        paths += pictures
        labels += [label] * len(pictures)
    return Folder(tuple(paths), tuple(place.name for place in below), tuple(labels))


def _subset(found: Folder, limit: int, seed: int) -> Folder:
    """At most `limit` pictures: the classes give one each in turn, in an order that the seed draws."""
    rng = np.random.default_rng(seed)
    labels = np.array(found.labels or [0] * len(found.paths))
    turns = np.empty(len(labels), np.int64)
    for label in range(labels.max() + 1):
        turns[labels == label] = rng.permutation((labels == label).sum())
    drawn = np.lexsort((rng.random(len(labels)), turns))[:limit]  # by turn; within a turn at random
    kept = sorted(int(place) for place in drawn)
    return Folder(
        tuple(found.paths[place] for place in kept),
        found.classes,
        tuple(found.labels[place] for place in kept if found.labels),
    )
