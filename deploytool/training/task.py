"""Defines a training task: a model adapted to the data, the data and the recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from deploytool import serde
from deploytool.loading import factory
from deploytool.spec import Model, Tensor
from deploytool.training import data
from deploytool.training.data import Data
from deploytool.training.recipe import Recipe


@dataclass(frozen=True)
class TrainingTask:
    """The inputs of a training."""

    model: Model
    data: Data
    recipe: Recipe

    def key(self) -> str:
        """A digest of everything that determines the weights after an epoch; the number of epochs does not."""
        definition = [serde.file_digest(path) for path in factory.source_files(self.model.factory)]
        return serde.digest(self.model, definition, self.data.digest(), replace(self.recipe, epochs=0))


def prepare(model: Model, folder: Path, recipe: Recipe) -> TrainingTask:
    """Reads the data and adapts the model to it.

    Raises BadInput if the folder holds no training data.
    """
    dataset = data.read(folder, model.preprocessing, recipe)
    return TrainingTask(adapt(model, dataset), dataset, recipe)


def adapt(model: Model, dataset: Data) -> Model:
    """The model with the classes and the image size of the data.

    The counts of parameters and MACs are dropped, because they apply to the original number of classes.
    """
    classes, side = len(dataset.classes), dataset.preprocessing.crop_size[0]
    return replace(
        model,
        options={**model.options, "classes": classes},
        inputs=(Tensor(model.inputs[0].name, ("batch", 3, side, side)),),
        outputs=(Tensor(model.outputs[0].name, ("batch", classes)),),
        preprocessing=dataset.preprocessing,
        classes=dataset.classes,
        parameters=None,
        macs=None,
    )
