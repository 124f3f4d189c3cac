"""How a model is trained and what came of it, as plain data; the defaults are the published CIFAR-10 recipe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Adam and cross-entropy for `epochs`, in batches of at most `batch` pictures.

    After every `step` epochs the learning rate is multiplied by `gamma`. While learning, pictures are shifted by up to
    `padding` pixels and, with `flip`, half of them are mirrored. `validation` is the share of the training pictures
    held out to choose the best epoch. All that is random follows `seed`.
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
        """The learning rate in an epoch; the first epoch is 1."""
        return float(self.learning_rate * self.gamma ** ((epoch - 1) // self.step))


@dataclass(frozen=True)
class Score:
    """Cross-entropy and the share of right answers: both means over pictures."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Epoch:
    """One pass over the training pictures, and the validation that followed it."""

    epoch: int
    learning_rate: float
    train: Score
    validation: Score
    seconds: float


@dataclass(frozen=True)
class Results:
    """What a whole training came to: its best epoch, and what that one scored."""

    best_epoch: int
    validation: Score
    test: Score
    seconds: float


def best(history: tuple[Epoch, ...]) -> Epoch:
    """The epoch with the best validation accuracy, of equals the one with the smallest validation loss."""
    return max(history, key=lambda record: (record.validation.accuracy, -record.validation.loss))
