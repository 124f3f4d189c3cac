"""Reads training data: CIFAR-10's binary files, folders `train` and `test`, or one image folder that is split."""

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
    """The training, validation and test images, their class names, and the preprocessing with their size."""

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    preprocessing: Preprocessing

    def digest(self) -> str:
        """A SHA-256 of everything but the preprocessing."""
        return serde.digest(self.train.digest(), self.validation.digest(), self.test.digest(), self.classes)


def read(folder: Path, preprocessing: Preprocessing, recipe: Recipe) -> Data:
    """Loads all images of a folder into memory.

    CIFAR-10 stays at 32 × 32, and square images of one size keep it if it is not larger than the model's input; all
    others are resized to the model's input. Without a test set, one as large as the validation set is split off.
    Raises BadInput if the folder holds no such data, or too few images.
    """
    if cifar.is_cifar(folder):
        labelled, test, classes = cifar.read(folder)
        preprocessing = replace(preprocessing, resize=cifar.SIDE, crop=cifar.SIDE)
    elif (folder / "train").is_dir():
        train_files, test_files = _list(folder / "train"), _list(folder / "test")
        if train_files.classes != test_files.classes:
            raise BadInput(f"{folder}/train and {folder}/test have different classes", "give both the same sub-folders")
        preprocessing = _with_size((*train_files.paths, *test_files.paths), preprocessing)
        labelled, test = _load(train_files, preprocessing), _load(test_files, preprocessing)
        classes = train_files.classes
    else:
        files = _list(folder)
        preprocessing = _with_size(files.paths, preprocessing)
        labelled, test = split(_load(files, preprocessing), recipe.validation, recipe.seed)
        classes = files.classes
    train, validation = split(labelled, recipe.validation, recipe.seed)
    if len(train) < 2:
        raise BadInput(f"{folder} has too few images to train on", "add more, or lower --validation")
    return Data(train, validation, test, classes, preprocessing)


def _list(folder: Path) -> Folder:
    files = image_folder.read(folder)
    if len(files.classes) < 2:
        raise BadInput(f"{folder} has fewer than two classes", "give it one sub-folder a class")
    return files


def _with_size(paths: tuple[Path, ...], preprocessing: Preprocessing) -> Preprocessing:
    sizes = {images.stored_size(path) for path in paths}
    height, width = next(iter(sizes))
    if len(sizes) == 1 and height == width <= preprocessing.crop_size[0]:
        return replace(preprocessing, resize=width, crop=width)
    return preprocessing


def _load(files: Folder, preprocessing: Preprocessing) -> ImageSet:
    pixels = [images.fit(images.read(path), preprocessing) for path in files.paths]
    return ImageSet(np.stack(pixels), np.array(files.labels, np.int64))
