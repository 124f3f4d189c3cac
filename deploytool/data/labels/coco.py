"""Reads the objects of pictures from a file of annotations in COCO's format.

Source: the format of "Object Detection" annotations of the COCO data set: `images`, `annotations` with `bbox` as x, y,
width and height in pixels, and `categories`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploytool.data import images
from deploytool.data.labels.labelled_images import LabelledImages, class_index, existing
from deploytool.errors import BadInput
from deploytool.tasks.annotations import Boxes

_REMEDY = "give annotations in COCO's format: images, annotations with bbox, categories"
_SLACK = 1.0  # pixels: annotations are rounded


def read(file: Path, folder: Path, classes: Sequence[str]) -> LabelledImages:
    """The pictures that the file lists, with their objects.

    The class of a category is that of its name in `classes`, the names that the model has; without names the categories
    are counted in the order of their ids. Raises BadInput if the file is no such file, and for a picture that is
    missing or listed twice, an unknown category, and a box that is outside its picture.
    """
    document = _document(file)
    names = {int(entry["id"]): str(entry["name"]) for entry in document["categories"]}
    if len(set(names.values())) < len(document["categories"]):
        raise BadInput(f"{file} lists a category twice", "keep one entry for each id and each name")
    ordered = tuple(classes) or tuple(names[key] for key in sorted(names))
    indices = {name: index for index, name in enumerate(ordered)}
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for entry in document["annotations"]:
        by_image.setdefault(int(entry["image_id"]), []).append(entry)
    listed = {int(entry["id"]): str(entry["file_name"]) for entry in document["images"]}
    _check_listed(file, document["images"], listed, by_image)
    paths, targets = [], []
    for key, name in listed.items():
        path = existing(folder, name, file)
        paths.append(path)
        targets.append(_boxes(file, path, by_image.get(key, ()), names, indices))
    return LabelledImages(tuple(paths), tuple(targets), ordered)


def _document(file: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(file.read_bytes())
        for entry in document["annotations"]:
            left, top, width, height = map(float, entry["bbox"])
            if not all(map(np.isfinite, (left, top, width, height))) or min(width, height) < 0:
                raise BadInput(f"{file}: the box of annotation {_number(entry)} is {entry['bbox']}", _REMEDY)
            int(entry["image_id"]), int(entry["category_id"])
        _ = [(int(entry["id"]), str(entry["name"])) for entry in document["categories"]]
        _ = [(int(entry["id"]), str(entry["file_name"])) for entry in document["images"]]
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}", "check the path after --labels") from error
    except KeyError as error:
        raise BadInput(f"{file} lacks {error}", _REMEDY) from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadInput(f"{file} is no file of annotations: {error}", _REMEDY) from error
    if not document["images"]:
        raise BadInput(f"{file} lists no picture", _REMEDY)
    return document  # type: ignore[no-any-return]  # checked above as far as it is read


def _number(entry: Mapping[str, Any]) -> str:
    """The id of an annotation, which nothing else needs."""
    return str(entry.get("id", "without id"))


def _check_listed(
    file: Path, entries: Sequence[Mapping[str, Any]], listed: Mapping[int, str], by_image: Mapping[int, Sequence[Any]]
) -> None:
    """Raises BadInput if two pictures have one id or one name, or if an annotation is for none of them."""
    names = [os.path.normpath(str(entry["file_name"])) for entry in entries]  # a.png and ./a.png are one picture
    if len(listed) < len(entries) or len(set(names)) < len(names):
        ids = [int(entry["id"]) for entry in entries]
        twice = next((name for name in names if names.count(name) > 1), f"id {max(ids, key=ids.count)}")
        raise BadInput(f"{file} lists {twice} twice", "keep one entry for each picture")
    if stray := sorted(set(by_image) - set(listed)):
        raise BadInput(f"{file} annotates the picture {stray[0]}, which it does not list", "add it under images")


def _boxes(
    file: Path, path: Path, entries: Sequence[Mapping[str, Any]], names: Mapping[int, str], indices: dict[str, int]
) -> Boxes:
    height, width = images.upright_size(path)
    boxes, classes = np.zeros((len(entries), 4)), np.zeros(len(entries), np.int64)
    for row, entry in enumerate(entries):
        left, top, wide, high = map(float, entry["bbox"])
        if min(left, top) < -_SLACK or left + wide > width + _SLACK or top + high > height + _SLACK:
            where = f"the box of annotation {_number(entry)} is outside {path.name}, {width} × {height} pixels"
            raise BadInput(f"{file}: {where}", "correct it; bbox is x, y, width, height")
        category = int(entry["category_id"])
        if category not in names:
            raise BadInput(f"{file}: annotation {_number(entry)} has the unknown category {category}", _REMEDY)
        boxes[row] = left, top, left + wide, top + high
        classes[row] = class_index(names[category], indices, file)
    return Boxes(boxes, classes, np.array([bool(entry.get("iscrowd", 0)) for entry in entries], bool))
