"""Labelled pictures as inputs of a model, some at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploytool.data import batches
from deploytool.errors import BadInput
from deploytool.spec import Model, Preprocessing, Range, Tensor

FREE = Model(
    "m",
    "m.py:m",
    inputs=(Tensor("image", ("batch", 3, "H", "W")),),
    preprocessing=Preprocessing(resize=0, crop=0, scale=1.0, mean=(0.0,), std=(1.0,)),
)
SIZES = {"H": Range(8, 16, 32), "W": Range(8, 16, 32)}


def pictures(folder: Path, *sizes: tuple[int, int]) -> list[Path]:
    """One picture for each height and width, each of a grey level of its own."""
    paths = []
    for number, (height, width) in enumerate(sizes):
        paths.append(folder / f"{number:02}.png")
        Image.new("RGB", (width, height), (number, number, number)).save(paths[-1])
    return paths


def test_pictures_of_one_size_come_together_in_their_order(tmp_path: Path) -> None:
    paths = pictures(tmp_path, *[(8, 12)] * 18, (12, 8), (8, 12))
    read = list(batches.read(FREE, [[path] for path in paths], SIZES))
    assert [batch.indices for batch in read] == [tuple(range(16)), (16, 17), (18,), (19,)]
    assert [batch.size for batch in read] == [(8, 12), (8, 12), (12, 8), (8, 12)]
    for batch in read:
        for index, pixels, place in zip(batch.indices, batch.inputs["image"], batch.placements, strict=True):
            assert np.all(pixels == index)
            assert place.picture == batch.size


def test_a_picture_of_a_size_that_the_model_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"01\.png becomes 40 × 8: 40, and H is from 8 to 32"):
        list(batches.read(FREE, [[path] for path in pictures(tmp_path, (8, 8), (40, 8))], SIZES))


@pytest.mark.parametrize(
    "inputs",
    [
        (Tensor("image", ("batch", 3, 8, 8)), Tensor("sound", ("batch", 16000))),
        (Tensor("sound", ("batch", 16000)),),
    ],
)
def test_a_model_that_takes_anything_but_images_is_refused(inputs: tuple[Tensor, ...]) -> None:
    with pytest.raises(BadInput, match="a metric on images is for models that take images alone, and m does not"):
        batches.check_input(replace(FREE, inputs=inputs))
    batches.check_input(FREE)


def test_an_item_has_an_image_for_each_input_at_its_size(tmp_path: Path) -> None:
    """Equal sizes of pictures, so that nothing but the order tells them apart."""
    inputs = (Tensor("left", ("batch", 3, 8, 12)), Tensor("right", ("batch", 3, 8, 6)))
    model = replace(FREE, inputs=inputs, preprocessing=replace(FREE.preprocessing, resize=(8, 12), crop=(8, 12)))
    paths = pictures(tmp_path, *[(16, 24)] * 40)
    read = list(batches.read(model, list(zip(paths[:20], paths[20:], strict=True)), {}))
    assert [len(batch.indices) for batch in read] == [16, 4]
    for batch in read:
        assert {name: array.shape[2:] for name, array in batch.inputs.items()} == {"left": (8, 12), "right": (8, 6)}
        assert batch.inputs["left"][:, 0, 0, 0].tolist() == list(batch.indices)
        assert batch.inputs["right"][:, 0, 0, 0].tolist() == [20 + index for index in batch.indices]
        assert (batch.size, batch.placements[0].canvas) == ((8, 12), (8, 12))
