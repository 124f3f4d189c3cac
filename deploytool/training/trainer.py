"""A model that learns: seeded weights, Adam, and one epoch at a time, on the GPU if there is one."""

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

_AT_ONCE = 256  # pictures that are scored together


class Trainer:
    """The model of a course with its optimizer; both are public, so that a checkpoint can hold them."""

    def __init__(self, course: TrainingTask) -> None:
        self._course = course
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module = _seeded(course).to(self._device)
        self.optimizer = torch.optim.Adam(self.module.parameters(), course.recipe.learning_rate)

    def learn(self, epoch: int, watch: Callable[[int, int], None]) -> Score:
        """One epoch over the training pictures; the score is that of the augmented batches as they were learned.

        Raises StageFailed as soon as the loss is no number any more.
        """
        recipe, pictures = self._course.recipe, self._course.data.train
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate(epoch)
        self.module.train()
        loss_sum, right, batches = 0.0, 0, count_batches(pictures, recipe)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(recipe.seed + epoch)  # for dropout
            for done, batch in enumerate(epoch_batches(pictures, recipe, epoch), start=1):
                logits, labels = self._answer(batch)
                loss = functional.cross_entropy(logits, labels)
                loss_sum += _finite(loss) * len(batch)
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
                self.optimizer.step()
                right += int((logits.argmax(1) == labels).sum())
                watch(done, batches)
        return Score(loss_sum / len(pictures), right / len(pictures))

    def score(self, pictures: ImageSet) -> Score:
        """What the model makes of pictures as they are; raises StageFailed if its loss is no number."""
        self.module.eval()
        loss_sum, right = 0.0, 0
        with torch.inference_mode():
            for start in range(0, len(pictures), _AT_ONCE):
                there = slice(start, start + _AT_ONCE)
                logits, labels = self._answer(ImageSet(pictures.pixels[there], pictures.labels[there]))
                loss_sum += _finite(functional.cross_entropy(logits, labels, reduction="sum"))
                right += int((logits.argmax(1) == labels).sum())
        return Score(loss_sum / len(pictures), right / len(pictures))

    def _answer(self, batch: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = torch.from_numpy(images.normalise(batch.pixels, self._course.data.preprocessing))
        logits: torch.Tensor = self.module(inputs.to(self._device))
        return logits, torch.from_numpy(batch.labels).to(self._device)


def _finite(loss: torch.Tensor) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise StageFailed(f"the training has diverged: its loss is {value}", "try a lower --learning-rate")
    return value


def _seeded(course: TrainingTask) -> nn.Module:
    """The definition with the first weights it gives itself."""
    model = course.model
    make = factory.resolve(model.factory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(course.recipe.seed)
        try:
            module: nn.Module = make(**model.options)
        except TypeError as error:
            raise BadInput(
                f"{model.factory} cannot be called: {error}", "give it a parameter `classes`, the number of classes"
            ) from error
    return module
