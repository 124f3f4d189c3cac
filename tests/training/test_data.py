"""Pictures are found in three layouts, brought to one size, and a model is adapted to them."""

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
from tests.training.conftest import DROPPING

USUAL = Preprocessing(resize=48, crop=40)


def fill(folder: Path, counts: Mapping[str, int], size: tuple[int, int] = (24, 24)) -> None:
    """Sub-folders with pictures, every one of another colour."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", size, (len(name), number, 0)).save(folder / name / f"{number:03}.png")


def colours(pictures: ImageSet) -> set[tuple[int, ...]]:
    return {tuple(map(int, pixels[0, 0])) for pixels in pictures.pixels}


def test_cifar_keeps_its_size_and_its_test_set(cifar_folder: Path) -> None:
    found = data.read(cifar_folder, USUAL, Recipe())
    assert (len(found.train), len(found.validation), len(found.test)) == (90, 10, 40)
    assert (found.preprocessing.resize, found.preprocessing.crop) == (32, 32)


def test_train_and_test_folders_are_kept_apart(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 10, "bb": 10})
    fill(tmp_path / "test", {"a": 3, "bb": 3})
    found = data.read(tmp_path, USUAL, Recipe())
    assert found.classes == ("a", "bb")
    assert (len(found.train), len(found.validation)) == (18, 2)
    assert found.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert not colours(found.train) & colours(found.validation)


def test_one_tree_is_split_in_three_by_the_seed(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 60, "bb": 40})
    found, again, other = (data.read(tmp_path, USUAL, Recipe(seed=seed)) for seed in (1, 1, 2))
    parts = [colours(part) for part in (found.train, found.validation, found.test)]
    assert [len(part) for part in parts] == [81, 9, 10]
    assert len(set.union(*parts)) == 100
    assert found.digest() == again.digest() != other.digest()


@pytest.mark.parametrize(
    ("sizes", "resize", "crop"),
    [
        ([(24, 24), (24, 24)], 24, 24),
        ([(24, 24), (30, 24)], 48, 40),
        ([(30, 24), (30, 24)], 48, 40),
        ([(64, 64), (64, 64)], 48, 40),
    ],
    ids=["small squares", "two sizes", "no squares", "larger than the model's"],
)
def test_the_size_comes_from_the_pictures(sizes: list[tuple[int, int]], resize: int, crop: int, tmp_path: Path) -> None:
    for name, size in zip("ab", sizes, strict=True):
        fill(tmp_path, {name: 5}, size)
    found = data.read(tmp_path, USUAL, Recipe())
    assert (found.preprocessing.resize, found.preprocessing.crop) == (resize, crop)
    assert found.train.pixels.shape == (8, crop, crop, 3)
    assert found.train.pixels.dtype == np.uint8


@pytest.mark.parametrize(
    ("layout", "problem"),
    [
        ({"train": {"a": 2, "b": 2}}, "there is no folder .*test"),
        ({"train": {"a": 2, "b": 2}, "test": {"a": 2, "c": 2}}, "have different classes"),
        ({".": {"a": 2}}, "does not have two classes"),
        ({".": {"a": 1, "b": 1}}, "too few pictures"),
        ({}, "holds no picture"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    layout: dict[str, dict[str, int]], problem: str, tmp_path: Path
) -> None:
    for name, counts in layout.items():
        fill(tmp_path / name, counts)
    with pytest.raises(BadInput, match=problem):
        data.read(tmp_path, USUAL, Recipe())


def test_a_model_is_adapted_to_the_data(cifar_folder: Path) -> None:
    adapted = task.prepare(DROPPING, cifar_folder, Recipe()).model
    assert adapted.options == {"classes": 10}
    assert adapted.inputs[0].shape == ("batch", 3, 32, 32)
    assert adapted.outputs[0].shape == ("batch", 10)
    assert adapted.preprocessing.crop == 32
    assert (adapted.parameters, adapted.macs) == (None, None)
