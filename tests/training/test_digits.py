"""The proof that training teaches: handwritten digits, which a small MobileNet learns to read in minutes on a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploytool.loading import catalog
from deploytool.training import loop, task
from deploytool.training.recipe import Recipe, Results
from tests.training.conftest import write_cifar


def learn_digits(folder: Path, recipe: Recipe) -> Results:
    """1,437 digits of scikit-learn to learn from and to validate, 360 for the test, 8 × 8 grey made 32 × 32 RGB."""
    datasets = pytest.importorskip("sklearn.datasets", reason="its handwritten digits are needed")
    digits, labels = datasets.load_digits(return_X_y=True)
    grey = (digits.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    large = np.repeat(np.kron(grey, np.ones((1, 4, 4), np.uint8))[..., None], 3, axis=3)
    order = np.random.default_rng(0).permutation(len(labels))
    test, train = order[:360], order[360:]
    write_cifar(folder, (large[train], labels[train]), (large[test], labels[test]))
    small = replace(catalog.find("mobilenet_v1_cifar"), options={"width": 0.25, "stem": "cifar"})
    lesson = task.prepare(small, folder, recipe)
    list(loop.train(lesson, folder / "out"))
    return loop.finish(lesson, folder / "out")


def test_a_short_training_reads_nine_digits_in_ten(tmp_path: Path) -> None:
    assert learn_digits(tmp_path, Recipe(epochs=12, flip=False)).test.accuracy > 0.9


@pytest.mark.sweep
def test_the_whole_recipe_reads_nineteen_digits_in_twenty(tmp_path: Path) -> None:
    assert learn_digits(tmp_path, Recipe(flip=False)).test.accuracy > 0.95
