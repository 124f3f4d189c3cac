"""What is to be learned: a model adapted to the data, the data, and the recipe."""

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
    """Everything a training depends on."""

    model: Model
    data: Data
    recipe: Recipe

    def key(self) -> str:
        """One digest of all that decides the weights after an epoch; how many epochs follow does not."""
        definition = [serde.file_digest(path) for path in factory.source_files(self.model.factory)]
        return serde.digest(self.model, definition, self.data.digest(), replace(self.recipe, epochs=0))


def prepare(model: Model, folder: Path, recipe: Recipe) -> TrainingTask:
    """Reads the pictures and adapts the model to them.

    Raises BadInput if the folder holds no pictures to learn from.
    """
    found = data.read(folder, model.preprocessing, recipe)
    return TrainingTask(adapt(model, found), found, recipe)


def adapt(model: Model, found: Data) -> Model:
    """The model with as many classes as the data has, for pictures of their size.

    Its published figures are left out: they were counted for another number of classes.
    """
    classes, side = len(found.classes), found.preprocessing.window[0]
    return replace(
        model,
        options={**model.options, "classes": classes},
        inputs=(Tensor(model.inputs[0].name, ("batch", 3, side, side)),),
        outputs=(Tensor(model.outputs[0].name, ("batch", classes)),),
        preprocessing=found.preprocessing,
        classes=found.classes,
        parameters=None,
        macs=None,
    )
