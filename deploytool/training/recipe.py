"""Hyperparameters and results of a training, as plain data; the defaults are the published CIFAR-10 recipe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Training with Adam and cross-entropy for `epochs` epochs, in batches of at most `batch` images.

    After every `step` epochs the learning rate is multiplied by `gamma`. Training images are shifted by up to `padding`
    pixels and, with `flip`, half of them are mirrored. `validation` is the share of the training images held out to
    choose the best epoch. All random numbers are drawn from `seed`.
    """

    epochs: int = 50
    batch: int = 64
    learning_rate: float = 0.01
    step: int = 10
    gamma: float = 0.5
    validation: float = 0.1
    padding: int = 4
    flip: bool = True
    seed: int = 42

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch; epochs count from 1."""
        return float(self.learning_rate * self.gamma ** ((epoch - 1) // self.step))


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy and accuracy (from 0 to 1) over images."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Epoch:
    """The scores of one pass over the training images and of the validation after it."""

    epoch: int
    learning_rate: float
    train: Score
    validation: Score
    seconds: float


@dataclass(frozen=True)
class Results:
    """The best epoch of a training and its scores; `seconds` is the time of all epochs."""

    best_epoch: int
    validation: Score
    test: Score
    seconds: float


def best(history: tuple[Epoch, ...]) -> Epoch:
    """The epoch with the highest validation accuracy and, among equal ones, the lowest validation loss."""
    return max(history, key=lambda record: (record.validation.accuracy, -record.validation.loss))
