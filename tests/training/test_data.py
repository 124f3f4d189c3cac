"""Tests of the three layouts of training data, the size of their images, and a model's adaptation to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploytool.errors import BadInput
from deploytool.spec import Preprocessing
from deploytool.training import data, task
from deploytool.training.augmentation import ImageSet
from deploytool.training.recipe import Recipe
from tests.training.conftest import DROPOUT_NET

DEFAULT = Preprocessing(resize=48, crop=40)


def fill(folder: Path, counts: Mapping[str, int], size: tuple[int, int] = (24, 24)) -> None:
    """Writes sub-folders of images, each image with its own colour."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", size, (len(name), number, 0)).save(folder / name / f"{number:03}.png")


def colours(images: ImageSet) -> set[tuple[int, ...]]:
    return {tuple(map(int, pixels[0, 0])) for pixels in images.pixels}


def test_cifar_keeps_its_size_and_its_test_set(cifar_folder: Path) -> None:
    dataset = data.read(cifar_folder, DEFAULT, Recipe())
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (90, 10, 40)
    assert (dataset.preprocessing.resize, dataset.preprocessing.crop) == (32, 32)


def test_train_and_test_folders_are_kept_apart(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 10, "bb": 10})
    fill(tmp_path / "test", {"a": 3, "bb": 3})
    dataset = data.read(tmp_path, DEFAULT, Recipe())
    assert dataset.classes == ("a", "bb")
    assert (len(dataset.train), len(dataset.validation)) == (18, 2)
    assert dataset.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert not colours(dataset.train) & colours(dataset.validation)


def test_one_folder_is_split_into_three_sets_by_the_seed(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 60, "bb": 40})
    dataset, repeated, reseeded = (data.read(tmp_path, DEFAULT, Recipe(seed=seed)) for seed in (1, 1, 2))
    parts = [colours(part) for part in (dataset.train, dataset.validation, dataset.test)]
    assert [len(part) for part in parts] == [81, 9, 10]
    assert len(set.union(*parts)) == 100
    assert dataset.digest() == repeated.digest() != reseeded.digest()


@pytest.mark.parametrize(
    ("sizes", "resize", "crop"),
    [
        ([(24, 24), (24, 24)], 24, 24),
        ([(24, 24), (30, 24)], 48, 40),
        ([(30, 24), (30, 24)], 48, 40),
        ([(64, 64), (64, 64)], 48, 40),
    ],
    ids=["small squares", "two sizes", "not square", "larger than the model's"],
)
def test_the_size_depends_on_the_images(sizes: list[tuple[int, int]], resize: int, crop: int, tmp_path: Path) -> None:
    for name, size in zip("ab", sizes, strict=True):
        fill(tmp_path, {name: 5}, size)
    dataset = data.read(tmp_path, DEFAULT, Recipe())
    assert (dataset.preprocessing.resize, dataset.preprocessing.crop) == (resize, crop)
    assert dataset.train.pixels.shape == (8, crop, crop, 3)
    assert dataset.train.pixels.dtype == np.uint8


@pytest.mark.parametrize(
    ("layout", "problem"),
    [
        ({"train": {"a": 2, "b": 2}}, "there is no folder .*test"),
        ({"train": {"a": 2, "b": 2}, "test": {"a": 2, "c": 2}}, "have different classes"),
        ({".": {"a": 2}}, "fewer than two classes"),
        ({".": {"a": 1, "b": 1}}, "too few images"),
        ({}, "holds no picture"),
    ],
)
def test_unusable_data_is_refused(layout: dict[str, dict[str, int]], problem: str, tmp_path: Path) -> None:
    for name, counts in layout.items():
        fill(tmp_path / name, counts)
    with pytest.raises(BadInput, match=problem):
        data.read(tmp_path, DEFAULT, Recipe())


def test_a_model_is_adapted_to_the_data(cifar_folder: Path) -> None:
    adapted = task.prepare(DROPOUT_NET, cifar_folder, Recipe()).model
    assert adapted.options == {"classes": 10}
    assert adapted.inputs[0].shape == ("batch", 3, 32, 32)
    assert adapted.outputs[0].shape == ("batch", 10)
    assert adapted.preprocessing.crop == 32
    assert (adapted.parameters, adapted.macs) == (None, None)
