from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploytool.data import calibration, images
from deploytool.data.golden import Floor, Golden, Noise
from deploytool.errors import BadInput
from deploytool.spec import Model, Tensor
from tests.int8 import nets

MODEL = Model(
    "net", "net.py:net", inputs=(Tensor("input", ("batch", 3, nets.SIDE, nets.SIDE)),), preprocessing=nets.HOW
)


def drawn(count: int, seed: int) -> images.Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, nets.SIDE, nets.SIDE, 3), np.uint8)


def normalised(count: int, seed: int) -> images.Inputs:
    return images.normalise(drawn(count, seed), nets.HOW)


def golden() -> Golden:
    none = Noise(Floor(0.0, 0.0), Floor(0.0, 0.0))
    return Golden(drawn(3, 77), {"input": normalised(3, 77)}, {}, {}, np.full(3, -1), nets.HOW, none)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pictures"
    made.mkdir()
    for index, pixels in enumerate(drawn(20, 5)):
        images.write(made / f"{index:02}.png", pixels)
    return made


def test_pictures_are_read_as_inputs_and_can_be_read_again(folder: Path) -> None:
    data = calibration.read(folder, MODEL, {})
    for _ in range(2):
        read = np.concatenate([batch["input"] for batch in data])
        assert (read == normalised(20, 5)).all()
    assert data.names[:2] == ("00.png", "01.png")
    (remark,) = calibration.check(folder, data, golden())
    assert "20 calibration cases are few" in remark


def test_a_golden_picture_is_refused_under_any_name(folder: Path) -> None:
    images.write(folder / "other name.png", drawn(3, 77)[1])
    with pytest.raises(BadInput, match=r"other name\.png is one of the golden cases"):
        calibration.check(folder, calibration.read(folder, MODEL, {}), golden())


def test_a_test_picture_is_refused_in_another_format(folder: Path, tmp_path: Path) -> None:
    tests = [tmp_path / f"test{index}.bmp" for index in range(3)]
    for path, pixels in zip(tests, drawn(3, 9), strict=True):
        Image.fromarray(pixels).save(path)
    data = calibration.read(folder, MODEL, {})
    assert calibration.check(folder, data, golden(), tests)
    Image.fromarray(drawn(20, 5)[4]).save(tests[1])
    Image.fromarray(drawn(20, 5)[6]).save(tests[2])
    with pytest.raises(BadInput, match=r"04\.png is one of the test pictures, and so are 1 more"):
        calibration.check(folder, data, golden(), tests)


def test_fewer_than_sixteen_different_pictures_are_refused(folder: Path) -> None:
    for index in range(6):
        images.write(folder / f"{index:02}.png", drawn(20, 5)[10])
    with pytest.raises(BadInput, match="14 different calibration cases, and 16 are the fewest"):
        calibration.check(folder, calibration.read(folder, MODEL, {}), golden())


def test_at_most_so_many_are_chosen_by_the_seed(folder: Path) -> None:
    first, second = (calibration.read(folder, MODEL, {}, most=17, seed=seed) for seed in (1, 2))
    assert len(first.names) == len(second.names) == 17
    assert first.names != second.names


def test_a_file_of_inputs_is_read_in_batches(tmp_path: Path) -> None:
    cases = np.concatenate([normalised(60, 1), normalised(60, 2)])
    np.savez(tmp_path / "cases.npz", input=cases)
    data = calibration.read(tmp_path / "cases.npz", MODEL, {})
    read = [batch["input"] for batch in data]
    assert max(map(len, read)) < 20
    assert (np.concatenate(read) == cases).all()
    assert not calibration.check(tmp_path / "cases.npz", data, golden())


def test_a_golden_case_in_a_file_is_refused(tmp_path: Path) -> None:
    cases = np.concatenate([normalised(16, 1), normalised(3, 77)[2:]])
    np.savez(tmp_path / "cases.npz", input=cases)
    with pytest.raises(BadInput, match="case 16 is one of the golden cases"):
        calibration.check(tmp_path, calibration.read(tmp_path / "cases.npz", MODEL, {}), golden())


def test_pictures_for_a_model_without_an_image_are_refused(folder: Path) -> None:
    tokens = Model("net", "net.py:net", inputs=(Tensor("tokens", ("batch", 8), "int64"),))
    with pytest.raises(BadInput, match="does not accept images alone"):
        calibration.read(folder, tokens, {})


def test_one_picture_is_no_calibration_data(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"00\.png is neither a folder of pictures nor a file of inputs \(\.npz\)"):
        calibration.read(folder / "00.png", MODEL, {})


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing here"):
        calibration.read(tmp_path / "nothing here", MODEL, {})
