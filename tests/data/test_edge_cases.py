from __future__ import annotations

import numpy as np
import pytest

from deploytool.data import edge_cases, images
from deploytool.spec import Fill, Model, Preprocessing, Tensor

MANY = 100


def drawn(tensor: Tensor, usual: np.ndarray, most: int = MANY) -> dict[str, np.ndarray]:
    model = Model("one", "nowhere:made", inputs=(tensor,))
    return {case.name: case.inputs[tensor.name] for case in edge_cases.draw(model, {tensor.name: usual}, most)}


def test_edge_cases_of_numbers_keep_the_usual_magnitude() -> None:
    usual = np.array([[0.5, -2.0, 1.0, 0.25, 1.5, -0.5]], np.float32)
    found = drawn(Tensor("sound", ("batch", 6)), usual)
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert {array.shape for array in found.values()} == {(1, 6)}
    np.testing.assert_array_equal(found["silence"], np.zeros((1, 6)))
    np.testing.assert_array_equal(found["a constant"], np.ones((1, 6)))
    np.testing.assert_array_equal(found["loud"], usual * 100)
    np.testing.assert_allclose(found["quiet"], usual * 1e-4, rtol=1e-6)
    np.testing.assert_array_equal(found["one sample"], [[0, 0, 0, 2, 0, 0]])
    np.testing.assert_array_equal(found["a padded tail"], [[0.5, -2, 1, 0, 0, 0]])
    np.testing.assert_array_equal(found["negative"], -np.abs(usual))
    np.testing.assert_allclose(found["a ramp"], [np.linspace(-2, 1.5, 6)], rtol=1e-6)


def test_inputs_that_are_never_negative_stay_non_negative() -> None:
    found = drawn(Tensor("power", ("batch", 4)), np.array([[0.5, 2.0, 1.0, 0.0]], np.float32))
    assert min(array.min() for array in found.values()) == 0


@pytest.mark.parametrize(
    ("tensor", "usual", "largest"),
    [
        (Tensor("tokens", ("batch", 6), "int64", 50), np.array([[7, 3, 49, 2, 9, 1]]), 49),
        (Tensor("pixels", ("batch", 4), "uint8", 256), np.array([[7, 3, 255, 2]], np.uint8), 255),
        (Tensor("mask", ("batch", 4), "bool"), np.array([[True, True, False, True]]), 1),
    ],
)
def test_edge_cases_of_integers_and_masks_are_their_extremes(tensor: Tensor, usual: np.ndarray, largest: int) -> None:
    found = drawn(tensor, usual)
    assert {array.dtype for array in found.values()} == {usual.dtype}
    assert not found["zero"].any()
    assert (found["the largest"] == largest).all()
    middle = usual.shape[1] // 2
    np.testing.assert_array_equal(found["a padded tail"][0], [*usual[0, :middle], *[0] * (usual.shape[1] - middle)])


@pytest.mark.parametrize("preprocessing", [Preprocessing(), Preprocessing(channels="BGR", mean=(0, 0, 0), scale=1.0)])
def test_edge_cases_of_images_are_preprocessed_pixels(preprocessing: Preprocessing) -> None:
    model = Model("one", "nowhere:made", inputs=(Tensor("image", ("batch", 3, 8, 10)),), preprocessing=preprocessing)
    usual = images.normalise(images.dead_leaves(1, 8, 10, 0), preprocessing)
    found = {case.name: case for case in edge_cases.draw(model, {"image": usual}, MANY)}
    ends = images.normalise(np.array([0, 255], np.uint8).repeat(3).reshape(2, 1, 1, 3), preprocessing)
    black, white = ends[0, :, 0, 0], ends[1, :, 0, 0]
    for name, colour in (("black", black), ("white", white)):
        assert (found[name].inputs["image"] == colour[None, :, None, None]).all()
    bright = found["one bright pixel"].inputs["image"][0]
    assert [(bright[:, row, column] == white).all() for row, column in ((4, 5), (0, 0))] == [True, False]
    assert len(np.unique(found["one colour"].inputs["image"].reshape(3, -1), axis=1)[0]) == 1
    assert (found["half black"].inputs["image"][0, :, 4:] == black[:, None, None]).all()
    levels = images.normalise(np.full((1, 8, 10, 3), 127, np.uint8), preprocessing)
    step = np.abs(white - black).max() / 255
    assert 0 < np.abs(found["faint"].inputs["image"] - levels).max() < 7 * step
    assert {name for name, case in found.items() if not case.natural} == {"loud"}
    np.testing.assert_array_equal(found["loud"].inputs["image"], usual * 100)


def test_one_input_at_a_time_is_at_an_edge_and_the_most_relevant_come_first() -> None:
    tensors = (Tensor("sound", ("batch", 4)), Tensor("tokens", ("batch", 4), "int64", 9))
    usual = {"sound": np.array([[0.5, -2.0, 1.0, 0.5]], np.float32), "tokens": np.array([[1, 2, 3, 4]])}
    found = edge_cases.draw(Model("two", "nowhere:made", inputs=tensors), usual, 4)
    assert [case.name for case in found] == ["silence sound", "zero tokens", "loud sound", "a constant sound"]
    assert [case.natural for case in found] == [True, True, False, True]
    for case in found:
        still = [name for name in usual if not case.name.endswith(name)]
        assert all((case.inputs[name] == usual[name]).all() for name in still)


@pytest.mark.parametrize(("dtype", "below", "natural"), [("bool", 2, False), ("int64", 2, False), ("int64", 9, True)])
def test_an_empty_mask_is_not_natural(dtype: str, below: int, natural: bool) -> None:
    model = Model("one", "nowhere:made", inputs=(Tensor("mask", ("batch", 4), dtype, below),))
    cases = edge_cases.draw(model, {"mask": np.array([[1, 0, 1, 1]]).astype(dtype)}, MANY)
    assert {case.name: case.natural for case in cases} == {"zero": natural, "the largest": True, "a padded tail": True}


def test_a_mask_has_edges_of_padding_and_positions_have_none() -> None:
    inputs = (
        Tensor("mask", ("batch", 6), "int64", fill=Fill.MASK),
        Tensor("positions", ("batch", 6), "int64", fill=Fill.RANGE),
    )
    usual = {"mask": np.ones((1, 6), np.int64), "positions": np.arange(6)[None]}
    drawn = edge_cases.draw(Model("masked", "nowhere:made", inputs=inputs), usual, 9)
    assert [(case.name, case.natural) for case in drawn] == [
        ("no padding mask", True),
        ("all but one padded mask", True),
    ]
    np.testing.assert_array_equal(drawn[1].inputs["mask"], [[1, 0, 0, 0, 0, 0]])
