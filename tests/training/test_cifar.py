"""Tests of CIFAR-10's binary format, and of the refusal of damaged files and pickles."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from deploytool.errors import BadInput
from deploytool.training import cifar
from tests.training.conftest import NAMES, noise_images


def test_images_labels_and_names_are_read(cifar_folder: Path) -> None:
    train, test, classes = cifar.read(cifar_folder)
    assert classes == NAMES
    for dataset, (pixels, labels) in ((train, noise_images(100)), (test, noise_images(40, seed=1))):
        np.testing.assert_array_equal(dataset.pixels, pixels)
        assert dataset.labels.tolist() == labels


def test_a_record_is_a_label_and_three_planes(cifar_folder: Path) -> None:
    red, green, blue = bytes(range(256)) * 4, b"\1" * 1024, b"\2" * 1024
    (cifar_folder / "test_batch.bin").write_bytes(b"\7" + red + green + blue)
    _, test, _ = cifar.read(cifar_folder)
    assert test.labels.tolist() == [7]
    assert test.pixels[0, 0, :3].tolist() == [[0, 1, 2], [1, 1, 2], [2, 1, 2]]
    assert test.pixels[0, 31, 31].tolist() == [255, 1, 2]


@pytest.mark.parametrize("content", [b"", bytes(3072), bytes(3074), b"\x0a" + bytes(3072)])
def test_a_damaged_file_is_refused(content: bytes, cifar_folder: Path) -> None:
    (cifar_folder / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(BadInput, match=r"data_batch_2\.bin is damaged"):
        cifar.read(cifar_folder)


@pytest.mark.parametrize("name", ["test_batch.bin", "batches.meta.txt"])
def test_a_missing_file_is_named(name: str, cifar_folder: Path) -> None:
    (cifar_folder / name).unlink()
    with pytest.raises(BadInput, match=f"{name} cannot be read: No such file"):
        cifar.read(cifar_folder)


def test_the_python_version_is_refused_without_loading_it(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",)

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Trap()))
    assert cifar.is_cifar(tmp_path)
    with pytest.raises(BadInput, match="pickles") as error:
        cifar.read(tmp_path)
    assert "cifar-10-binary" in error.value.remedy
    assert not (tmp_path / "executed").exists()
