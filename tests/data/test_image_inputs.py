"""Every image input has the preprocessing of the model at its own size."""

from __future__ import annotations

import pytest

from deploytool.data import image_inputs
from deploytool.data.preprocess import MAX_SIDE
from deploytool.errors import BadInput
from deploytool.spec import ImageSize, Preprocessing, Range, Tensor

SIZES = {"H": Range(8, 20, 32), "W": Range(8, 30, 32)}
FIRST = Tensor("first", ("batch", 3, 224, 224))


def second(how: Preprocessing, high: int | str, wide: int | str, first: Tensor = FIRST) -> Preprocessing:
    """The preprocessing of a second input of this size."""
    found = image_inputs.find((first, Tensor("second", ("batch", 3, high, wide))), how, SIZES)
    assert found[0].how is how
    return found[1].how


@pytest.mark.parametrize(
    ("resize", "crop", "size", "expected"),
    [
        (256, 224, (224, 224), (256, 224)),
        (256, 224, (112, 112), (128, 112)),  # the same share is cut off
        (256, 224, (64, 96), ((64, 96), (64, 96))),  # by another ratio nothing
        ((256, 448), (224, 224), (112, 56), ((128, 112), (112, 56))),
        (0, 224, (64, 96), (0, (64, 96))),
        (256, 224, ("H", "W"), ((20, 30), (20, 30))),
        (0, 0, (64, 96), (0, 0)),
    ],
)
def test_a_crop_has_the_same_share_of_each_input(
    resize: ImageSize, crop: ImageSize, size: tuple[int | str, int | str], expected: tuple[ImageSize, ImageSize]
) -> None:
    made = second(Preprocessing(resize=resize, crop=crop), *size)
    assert (made.resize, made.crop) == expected


def test_a_letterbox_has_the_size_of_each_input() -> None:
    boxed = Preprocessing(resize=224, crop=224, fit="letterbox")
    assert (second(boxed, 64, 96).resize, second(boxed, 64, 96).crop) == ((64, 96), (64, 96))
    within = second(Preprocessing(resize=224, crop=0, fit="within"), "H", "W")
    assert (within.resize, within.crop) == ((20, 30), 0)


def test_inputs_of_one_dynamic_size_have_one_preprocessing() -> None:
    how = Preprocessing(resize=30, crop=25)
    assert second(how, "H", "H", Tensor("first", ("batch", 3, "H", "H"))) is how


def test_no_input_is_found_beside_another_kind() -> None:
    assert image_inputs.find((FIRST, Tensor("sound", ("batch", 16000))), Preprocessing(), {}) == ()
    assert image_inputs.find((FIRST, Tensor("depth", ("batch", 1, 224, 224))), Preprocessing(), {}) == ()
    assert image_inputs.find((), Preprocessing(), {}) == ()


def test_a_resize_beyond_all_bounds_is_refused() -> None:
    with pytest.raises(BadInput, match=f"images for second would be resized to {MAX_SIDE * 2} pixels"):
        second(Preprocessing(resize=448, crop=224), MAX_SIDE, MAX_SIDE)
