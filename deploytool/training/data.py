"""Finds the pictures to learn from: CIFAR-10's binary files, folders `train` and `test`, or one tree to be split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deploytool import serde
from deploytool.data import image_folder, images
from deploytool.data.image_folder import Folder
from deploytool.errors import BadInput
from deploytool.spec import Preprocessing
from deploytool.training import cifar
from deploytool.training.augmentation import ImageSet, split
from deploytool.training.recipe import Recipe


@dataclass(frozen=True)
class Data:
    """Pictures to learn from, to choose the best epoch by, and for the final test; `preprocessing` has their size."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    preprocessing: Preprocessing

    def digest(self) -> str:
        """A SHA-256 of everything but the preprocessing."""
        return serde.digest(self.train.digest(), self.validation.digest(), self.test.digest(), self.classes)


def read(folder: Path, preprocessing: Preprocessing, recipe: Recipe) -> Data:
    """All pictures of a folder, in memory.

    CIFAR-10 stays 32 × 32; so do square pictures that share one size no larger than the model's own; all others are
    fitted to that. Where there is no test set, one as large as the validation share is split off.
    Raises BadInput if the folder holds something else, or too little.
    """
    if cifar.is_cifar(folder):
        known, test, classes = cifar.read(folder)
        preprocessing = replace(preprocessing, resize=cifar.SIDE, crop=cifar.SIDE)
    elif (folder / "train").is_dir():
        listed, listed_test = _listed(folder / "train"), _listed(folder / "test")
        if listed.classes != listed_test.classes:
            raise BadInput(f"{folder}/train and {folder}/test have different classes", "give both the same sub-folders")
        preprocessing = _sized((*listed.paths, *listed_test.paths), preprocessing)
        known, test, classes = _load(listed, preprocessing), _load(listed_test, preprocessing), listed.classes
    else:
        listed = _listed(folder)
        preprocessing = _sized(listed.paths, preprocessing)
        known, test = split(_load(listed, preprocessing), recipe.validation, recipe.seed)
        classes = listed.classes
    train, validation = split(known, recipe.validation, recipe.seed)
    if len(train) < 2:
        raise BadInput(f"{folder} has too few pictures to learn from", "add more, or lower --validation")
    return Data(train, validation, test, classes, preprocessing)


def _listed(folder: Path) -> Folder:
    found = image_folder.read(folder)
    if len(found.classes) < 2:
        raise BadInput(f"{folder} does not have two classes to tell apart", "give it one sub-folder a class")
    return found


def _sized(paths: tuple[Path, ...], preprocessing: Preprocessing) -> Preprocessing:
    sizes = {images.stored_size(path) for path in paths}
    height, width = next(iter(sizes))
    if len(sizes) == 1 and height == width <= preprocessing.window[0]:
        return replace(preprocessing, resize=width, crop=width)
    return preprocessing


def _load(listed: Folder, preprocessing: Preprocessing) -> ImageSet:
    pixels = [images.fit(images.read(path), preprocessing) for path in listed.paths]
    return ImageSet(np.stack(pixels), np.array(listed.labels, np.int64))
