"""Class names from training, folders or a file reach the device if they fit, and are refused otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import deploytool
from deploytool import serde
from deploytool.bundle.manifest import read_manifest
from deploytool.cli import params
from deploytool.data import class_names, items, preprocess
from deploytool.device import commands
from deploytool.errors import BadInput
from deploytool.loading import catalog, factory
from deploytool.loading.checkpoints import checkpoint, embedded_definition
from deploytool.spec import CLASSES_OPTION, Model, Task, Tensor
from deploytool.stages import golden
from deploytool.training import outputs, task
from deploytool.training.augmentation import ImageSet
from deploytool.training.data import Data
from deploytool.training.recipe import Recipe, Results, Score
from tests.conftest import ROOT

BYTES = ROOT / "tests" / "user_models" / "input_dtypes.py"
TEN = tuple(f"the {word} one" for word in ("1st", "2nd", "3rd", *(f"{number}th" for number in range(4, 11))))


def test_a_file_of_names_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\ufeffcat \r\ngolden retriever\ncrane\ncrane\nM\u00fcsli\x1b[31m\n\n", encoding="utf-8")
    assert class_names.read(path) == ("cat", "golden retriever", "crane", "crane", "Müsli?[31m")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "holds no names"),
        (b"\n \n", "holds no names"),
        (b"cat\n\ndog\n", "has no name in line 2"),
        (b"\x80\x81", "is not text in UTF-8"),
        (b"a\n" * (1 << 20), "holds no names"),
        (None, "cannot be read"),
    ],
)
def test_a_file_without_names_is_refused(content: bytes | None, line: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(BadInput, match=line):
        class_names.read(tmp_path / "names.txt")


def scoring(*shape: int, names: tuple[str, ...] = (), asked_for: tuple[str, ...] = ()) -> Model:
    return Model("m", "f.py:m", outputs=(Tensor("scores", ("batch", *shape)),), classes=names, asked=asked_for)


@pytest.mark.parametrize("shape", [(10,), (10, 8, 8)])
def test_names_fit_outputs_with_one_score_each(shape: tuple[int, ...]) -> None:
    assert class_names.check_count(scoring(*shape, names=TEN), ("a", "b")) == TEN
    assert class_names.check_count(scoring(*shape), TEN) == TEN
    assert class_names.check_count(scoring(*shape), TEN[:9]) == ()
    assert class_names.check_count(scoring(*shape, names=TEN[:9]), ()) == ()


def test_a_wrong_number_of_given_names_is_refused() -> None:
    with pytest.raises(BadInput, match="--classes names 9 classes, and m gives scores batch × 10"):
        class_names.check_count(scoring(10, names=TEN[:9], asked_for=(CLASSES_OPTION,)), ())


@pytest.mark.parametrize(
    ("task", "dtype", "kept"),
    [
        (None, "int64", False),
        (Task.CLASSIFY, "int64", False),
        (Task.DETECT, "float32", True),
        (Task.TOKENS, "float32", True),
        (Task.SEGMENT, "int64", True),
        (Task.SEGMENT, "float32", False),
    ],
)
def test_names_are_not_counted_where_outputs_hold_indices(task: Task | None, dtype: str, kept: bool) -> None:
    model = scoring(20, names=TEN, asked_for=(CLASSES_OPTION,))
    model = replace(model, task=task, outputs=(Tensor("labels", ("batch", 20), dtype),))
    if kept:
        assert class_names.check_count(model, ()) == TEN
    else:
        with pytest.raises(BadInput, match="--classes names 10 classes"):
            class_names.check_count(model, ())


def test_folders_with_the_models_class_names_get_their_indices_and_others_are_numbered() -> None:
    read = items.Items(((Path("a"),), (Path("b"),), (Path("c"),)), (TEN[3], TEN[1]), (0, 1, 1))
    assert golden._labels(read, scoring(10, names=TEN)).tolist() == [3, 1, 1]
    assert golden._labels(read, scoring(10)).tolist() == [0, 1, 1]


@pytest.mark.integration
def test_a_device_shows_the_names_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(TEN))
    run = deploytool.export(
        f"{BYTES}:Bytes",
        inputs=params.tensors(["3x16x16:uint8"]),
        classes=tmp_path / "names.txt",
        quick=True,
        pack=True,
        out=tmp_path / "run",
    ).check()
    assert run.bundle is not None
    assert read_manifest(run.bundle).classes == TEN
    Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).save(tmp_path / "a.png")
    result = commands.run(run.bundle, [tmp_path / "a.png"], top=10)
    assert isinstance(result.document, commands.RunResult)
    (guess,) = result.document.guesses
    assert guess.names == tuple(TEN[index] for index in guess.classes)
    assert f"{guess.classes[0]} {guess.names[0]} ({guess.scores[0]:.4g})" in result.lines[-1]


@pytest.mark.integration
def test_a_folder_of_classes_names_the_classes(tmp_path: Path) -> None:
    for name in TEN:
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.fromarray(np.full((20, 20, 3), len(name) * 10, np.uint8)).save(tmp_path / "data" / name / "a.png")
    run = deploytool.export(
        f"{BYTES}:Bytes",
        inputs=params.tensors(["3x16x16:uint8"]),
        data=tmp_path / "data",
        quick=True,
        pack=True,
        out=tmp_path / "run",
    ).check()
    assert run.bundle is not None
    assert read_manifest(run.bundle).classes == tuple(sorted(TEN))


def trained(tmp_path: Path, names: tuple[str, ...]) -> Path:
    """A weights file as training writes it, without any training steps."""
    zoo = catalog.find("mobilenet_v1_025")
    pictures = ImageSet(np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2, np.int64))
    stated = preprocess.StatedPreprocessing(resize=32, crop=32)
    model = catalog.find("mobilenet_v1_025", [Tensor("input", ("batch", 3, 32, 32))])
    data = Data(pictures, pictures, pictures, names, preprocess.resolve(model, stated, {}).preprocessing)
    adapted = task.adapt(zoo, data)
    state = factory.resolve(adapted.factory)(**adapted.options).state_dict()
    score = Score(0.0, 1.0)
    outputs.write(tmp_path, task.TrainingTask(adapted, data, Recipe()), state, Results(1, score, score, 0.0))
    return tmp_path / outputs.WEIGHTS


def test_class_names_are_stored_with_trained_weights(tmp_path: Path) -> None:
    weights, zoo = trained(tmp_path, TEN), catalog.find("mobilenet_v1_025")
    loaded = checkpoint.load(weights, zoo).model
    assert (loaded.classes, loaded.options["classes"]) == (TEN, 10)
    assert loaded.inputs[0].shape == ("batch", 3, 32, 32)
    older = json.loads(serde.text(loaded))
    del older["classes"], older["asked"]
    definition = embedded_definition.from_metadata({"model": json.dumps(older), "classes": json.dumps(TEN)})
    assert definition is not None
    assert definition.classes == TEN


@pytest.mark.parametrize(
    ("arguments", "line", "remedy"),
    [
        ({"classes": 7}, "'classifier.weight' is 10 × 256, not 7 × 256", "--arg classes=7"),
        ({"classes": 1000}, "'classifier.weight' is 10 × 256, not 1000 × 256", "--arg classes=1000"),
        ({"width": 0.5}, "which needs width=0.25, and mobilenet_v1_025 has 0.5", "name that model"),
    ],
)
def test_arguments_that_contradict_the_checkpoint_are_refused(
    arguments: dict[str, float], line: str, remedy: str, tmp_path: Path
) -> None:
    weights = trained(tmp_path, TEN)
    with pytest.raises(BadInput) as refused:
        checkpoint.load(weights, catalog.find("mobilenet_v1_025", arguments=arguments))
    assert line in str(refused.value)
    assert remedy in refused.value.remedy


@pytest.mark.parametrize("count", [1000, 10, 3])
def test_the_number_of_classes_is_that_of_the_checkpoint_unless_a_different_one_is_given(
    count: int, tmp_path: Path
) -> None:
    zoo = catalog.find("mobilenet_v1_025")
    state = factory.resolve(zoo.factory)(**{**zoo.options, "classes": count}).state_dict()
    torch.save(state, tmp_path / "w.pth")
    for arguments in ({}, {"classes": count}):
        model = catalog.find("mobilenet_v1_025", arguments=arguments)
        assert checkpoint.load(tmp_path / "w.pth", model).model.options["classes"] == count
    wrong = catalog.find("mobilenet_v1_025", arguments={"classes": count + 1})
    with pytest.raises(BadInput, match=f"'classifier.weight' is {count} × 256, not {count + 1} × 256"):
        checkpoint.load(tmp_path / "w.pth", wrong)


def test_a_declared_image_size_overrides_that_of_the_checkpoint(tmp_path: Path) -> None:
    weights = trained(tmp_path, TEN)
    declared = catalog.find("mobilenet_v1_025", [Tensor("input", ("batch", 3, 64, 64))])
    loaded = checkpoint.load(weights, declared).model
    assert loaded.inputs[0].shape == ("batch", 3, 64, 64)
    assert loaded.preprocessing.crop_size == (64, 64)
