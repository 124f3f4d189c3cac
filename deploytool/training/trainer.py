"""Trains and evaluates a model epoch by epoch with Adam, on the GPU if there is one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from deploytool.data import images
from deploytool.errors import BadInput, StageFailed
from deploytool.loading import factory
from deploytool.training.augmentation import ImageSet, count_batches, epoch_batches
from deploytool.training.recipe import Score
from deploytool.training.task import TrainingTask

_EVALUATION_BATCH = 256


class Trainer:
    """The model and the optimizer of a task; both are public, because checkpoints store and restore them."""

    def __init__(self, task: TrainingTask) -> None:
        self._task = task
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module = _initialise(task).to(self._device)
        self.optimizer = torch.optim.Adam(self.module.parameters(), task.recipe.learning_rate)

    def train_epoch(self, epoch: int, watch: Callable[[int, int], None]) -> Score:
        """Trains for one epoch; returns the score of the augmented batches, each before its optimizer step.

        Raises StageFailed as soon as the loss is not finite.
        """
        recipe, dataset = self._task.recipe, self._task.data.train
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(epoch)
        self.module.train()
        loss_sum, correct, batches = 0.0, 0, count_batches(dataset, recipe)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(recipe.seed + epoch)  # for dropout
            for done, batch in enumerate(epoch_batches(dataset, recipe, epoch), start=1):
                logits, labels = self._forward(batch)
                loss = functional.cross_entropy(logits, labels)
                loss_sum += _finite(loss) * len(batch)
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
                self.optimizer.step()
                correct += int((logits.argmax(1) == labels).sum())
                watch(done, batches)
        return Score(loss_sum / len(dataset), correct / len(dataset))

    def score(self, dataset: ImageSet) -> Score:
        """The score on images without augmentation; raises StageFailed if the loss is not finite."""
        self.module.eval()
        loss_sum, correct = 0.0, 0
        with torch.inference_mode():
            for start in range(0, len(dataset), _EVALUATION_BATCH):
                rows = slice(start, start + _EVALUATION_BATCH)
                logits, labels = self._forward(ImageSet(dataset.pixels[rows], dataset.labels[rows]))
                loss_sum += _finite(functional.cross_entropy(logits, labels, reduction="sum"))
                correct += int((logits.argmax(1) == labels).sum())
        return Score(loss_sum / len(dataset), correct / len(dataset))

    def _forward(self, batch: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = torch.from_numpy(images.normalise(batch.pixels, self._task.data.preprocessing))
        logits: torch.Tensor = self.module(inputs.to(self._device))
        return logits, torch.from_numpy(batch.labels).to(self._device)


def _finite(loss: torch.Tensor) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise StageFailed(f"the training has diverged: its loss is {value}", "set a lower --learning-rate")
    return value


def _initialise(task: TrainingTask) -> nn.Module:
    """The model with its initial weights, drawn from the recipe's seed."""
    model = task.model
    make_module = factory.resolve(model.factory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.recipe.seed)
        try:
            module: nn.Module = make_module(**model.options)
        except TypeError as error:
            raise BadInput(
                f"{model.factory} cannot be called: {error}", "add a parameter `classes`, the number of classes"
            ) from error
    return module
