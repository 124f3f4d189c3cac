"""The recipe is the published one, and its learning rate falls by the epoch."""

from __future__ import annotations

import pytest
import torch

from deploytool.training import recipe
from deploytool.training.recipe import Epoch, Recipe, Score


def test_the_defaults_are_the_published_recipe() -> None:
    published = Recipe(
        epochs=50, batch=64, learning_rate=0.01, step=10, gamma=0.5, validation=0.1, padding=4, flip=True, seed=42
    )
    assert Recipe() == published


def test_the_learning_rate_halves_every_ten_epochs() -> None:
    rates = [Recipe().rate(epoch) for epoch in range(1, 51)]
    assert rates == [0.01] * 10 + [0.005] * 10 + [0.0025] * 10 + [0.00125] * 10 + [0.000625] * 10


def test_the_rate_is_that_of_torchs_schedule_stepped_by_the_epoch() -> None:
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=0.3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.7)
    for epoch in range(1, 12):
        assert Recipe(learning_rate=0.3, step=3, gamma=0.7).rate(epoch) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_the_best_epoch_is_the_first_with_most_right_and_least_loss() -> None:
    scores = [Score(0.5, 0.8), Score(0.4, 0.9), Score(0.3, 0.9), Score(0.3, 0.9), Score(0.1, 0.7)]
    history = tuple(Epoch(i, 0.01, Score(0.0, 1.0), score, 1.0) for i, score in enumerate(scores, start=1))
    assert recipe.best(history).epoch == 3
