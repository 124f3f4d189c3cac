"""Reads an image folder: flat, or with one subfolder per class, whose sorted names give the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploytool.errors import BadInput

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm")


@dataclass(frozen=True)
class Folder:
    """Images in the order of their names; `labels` are indices into `classes`, and both are empty for a flat folder."""

    paths: tuple[Path, ...]
    classes: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()


def read(folder: Path, limit: int | None = None, seed: int = 0) -> Folder:
    """The images of a folder; with a limit, at most that many, balanced over the classes.

    The seed determines which images are chosen. Raises BadInput if the folder is missing or empty, or if it mixes
    images with folders.
    """
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}", "check the path")
    pictures, subfolders = content(folder)
    if pictures and subfolders:
        raise BadInput(
            f"{folder} holds both pictures and folders, such as {pictures[0].name} and {subfolders[0].name}",
            "keep pictures only, or one sub-folder a class",
        )
    images = _classes(subfolders) if subfolders else Folder(tuple(pictures))
    if not images.paths:
        raise BadInput(f"{folder} holds no picture", "give a folder of pictures, or of one sub-folder a class")
    return images if limit is None else _subset(images, limit, seed)


def content(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images and the folders directly in a folder, sorted by name, without hidden ones."""
    inside = sorted((path for path in folder.iterdir() if path.name[0] != "."), key=lambda path: path.name)
    pictures = [path for path in inside if path.suffix.lower() in SUFFIXES and path.is_file()]
    return pictures, [path for path in inside if path.is_dir()]


def _classes(subfolders: Sequence[Path]) -> Folder:
    paths: list[Path] = []
    labels: list[int] = []
    for label, subfolder in enumerate(subfolders):
        pictures, deeper = content(subfolder)
        if deeper or not pictures:
            holds = f"the folder {deeper[0].name}" if deeper else "no picture"
            raise BadInput(f"{subfolder} is not the folder of a class: it holds {holds}", "keep only pictures in it")
        paths += pictures
        labels += [label] * len(pictures)
    return Folder(tuple(paths), tuple(subfolder.name for subfolder in subfolders), tuple(labels))


def _subset(images: Folder, limit: int, seed: int) -> Folder:
    """At most `limit` images, balanced over the classes."""
    chosen = choose(images.labels or (0,) * len(images.paths), limit, seed)
    return Folder(
        tuple(images.paths[index] for index in chosen),
        images.classes,
        tuple(images.labels[index] for index in chosen if images.labels),
    )


def choose(labels: Sequence[int], limit: int, seed: int) -> list[int]:
    """The sorted indices of at most `limit` labels, chosen at random by taking one from each class in turn."""
    rng = np.random.default_rng(seed)
    classes = np.array(labels)
    turns = np.empty(len(classes), np.int64)
    for label in np.unique(classes):
        turns[classes == label] = rng.permutation((classes == label).sum())
    drawn = np.lexsort((rng.random(len(classes)), turns))[:limit]  # by turn, and at random within a turn
    return sorted(int(index) for index in drawn)
