"""Trains a small MobileNet on handwritten digits, which takes minutes on a CPU, and checks its accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploytool.loading import catalog
from deploytool.training import loop, task
from deploytool.training.recipe import Recipe, Results
from tests.training.conftest import write_cifar

pytestmark = pytest.mark.integration


def train_digits(folder: Path, recipe: Recipe) -> Results:
    """Trains on scikit-learn's digits (1,437 for training and validation, 360 for test; 8 × 8 grey to 32 × 32 RGB)."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn provides the digits")
    digits, labels = datasets.load_digits(return_X_y=True)
    grey = (digits.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    upscaled = np.repeat(np.kron(grey, np.ones((1, 4, 4), np.uint8))[..., None], 3, axis=3)
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = order[:360], order[360:]
    write_cifar(folder, (upscaled[train], labels[train]), (upscaled[test], labels[test]))
    small = replace(catalog.find("mobilenet_v1_cifar"), options={"width": 0.25, "stem": "cifar"})
    digits_task = task.prepare(small, folder, recipe)
    list(loop.train(digits_task, folder / "out"))
    return loop.finish(digits_task, folder / "out")


def test_a_short_training_exceeds_90_percent(tmp_path: Path) -> None:
    assert train_digits(tmp_path, Recipe(epochs=12, flip=False)).test.accuracy > 0.9


@pytest.mark.sweep
def test_the_default_recipe_exceeds_95_percent(tmp_path: Path) -> None:
    assert train_digits(tmp_path, Recipe(flip=False)).test.accuracy > 0.95
