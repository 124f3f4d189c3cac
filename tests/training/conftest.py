"""A small synthetic data set and a small network to train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploytool.data.images import Pixels
from deploytool.spec import Model, Preprocessing, Tensor
from deploytool.training import task
from deploytool.training.recipe import Recipe
from deploytool.training.task import TrainingTask

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DROPOUT_NET = Model(
    name="dropout_net",
    factory=f"{Path(__file__).parent / 'dropout_net.py'}:make",
    inputs=(Tensor("input", ("batch", 3, 224, 224)),),
    preprocessing=Preprocessing(),
    parameters=1,
    macs=1,
)
QUICK = Recipe(epochs=4, batch=16, step=2)


def noise_images(count: int, seed: int = 0) -> tuple[Pixels, list[int]]:
    """Noise images of 32 × 32 in ten classes, with the class as their brightness; returns pixels and labels."""
    labels = [index % 10 for index in range(count)]
    noise = np.random.default_rng(seed).integers(0, 30, (count, 32, 32, 3))
    return (noise + 22 * np.array(labels)[:, None, None, None]).astype(np.uint8), labels


def write_cifar(folder: Path, train: tuple[Pixels, list[int]], test: tuple[Pixels, list[int]]) -> Path:
    """Writes images as CIFAR-10's binary files, with the training images in two of them."""
    half = len(train[1]) // 2
    files = {
        "data_batch_1.bin": (train[0][:half], train[1][:half]),
        "data_batch_2.bin": (train[0][half:], train[1][half:]),
        "test_batch.bin": test,
    }
    for name, (pixels, labels) in files.items():
        planes = pixels.transpose(0, 3, 1, 2).reshape(len(labels), -1)
        (folder / name).write_bytes(np.column_stack([np.array(labels, np.uint8), planes]).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return folder


@pytest.fixture
def cifar_folder(tmp_path: Path) -> Path:
    (tmp_path / "cifar").mkdir()
    return write_cifar(tmp_path / "cifar", noise_images(100), noise_images(40, seed=1))


@pytest.fixture
def quick(cifar_folder: Path) -> TrainingTask:
    """A training of four epochs of six batches each."""
    return task.prepare(DROPOUT_NET, cifar_folder, QUICK)
