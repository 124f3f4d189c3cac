from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from deploytool.data import golden
from deploytool.data.golden import Floor, Golden, Noise
from deploytool.errors import BadInput
from deploytool.spec import Preprocessing

SAMPLE = Golden(
    np.zeros((2, 4, 4, 3), np.uint8),
    {"input": np.ones((2, 3, 4, 4), np.float32)},
    {"logits": np.ones((2, 5), np.float32), "features.map": np.ones((2, 1), np.float32)},
    {"logits": np.ones((2, 5)), "features.map": np.ones((2, 1))},
    np.array([3, -1]),
    Preprocessing(crop=4, channels="BGR", mean=(0.1, 0.2, 0.3)),
    Noise(Floor(1e-7, 2e-8), Floor(1e-3, 5e-4)),
)


class MakesFolder:
    """Creates a folder when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self._ran = ran

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._ran),)


def test_a_sample_is_read_back_with_its_types(tmp_path: Path) -> None:
    golden.write(tmp_path / "golden.npz", SAMPLE)
    found = golden.read(tmp_path / "golden.npz")
    assert {name: array.dtype for name, array in found.reference.items()} == {
        "logits": np.float64,
        "features.map": np.float64,
    }
    assert found.inputs["input"].dtype == np.float32
    assert found.outputs.keys() == SAMPLE.outputs.keys()
    np.testing.assert_array_equal(found.pixels, SAMPLE.pixels)
    assert found.preprocessing == SAMPLE.preprocessing
    assert found.noise == SAMPLE.noise


def test_equal_samples_have_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        golden.write(tmp_path / name, SAMPLE)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_file_that_is_no_sample_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "golden.npz"
    golden.write(file, SAMPLE)
    whole = file.read_bytes()
    np.savez(tmp_path / "other.npz", x=np.zeros(1))
    np.savez(tmp_path / "pickle.npz", pixels=np.array([{}], dtype=object))
    for content in (b"", b"garbage", whole[:200], (tmp_path / "other.npz").read_bytes()):
        file.write_bytes(content)
        with pytest.raises(BadInput, match="is not a golden sample"):
            golden.read(file)
    with pytest.raises(BadInput, match="is not a golden sample"):
        golden.read(tmp_path / "pickle.npz")


@pytest.mark.parametrize("name", ["pixels", "labels", "input.input", "edges"])
def test_no_pickle_is_loaded(tmp_path: Path, name: str) -> None:
    golden.write(tmp_path / "golden.npz", SAMPLE)
    with np.load(tmp_path / "golden.npz") as file:
        arrays = {**file, name: np.array([MakesFolder(tmp_path / "ran")], dtype=object)}
    np.savez(tmp_path / "pickle.npz", **arrays)
    for reader in (golden.read, golden.pixels, golden.read_cases):
        with suppress(BadInput):  # not every reader loads every array
            reader(tmp_path / "pickle.npz")
    with pytest.raises(BadInput, match="allow_pickle=False"):
        golden.read(tmp_path / "pickle.npz")
    assert not (tmp_path / "ran").exists()


def test_the_first_cases_are_a_sample() -> None:
    one = golden.first_cases(SAMPLE, 1)
    assert (len(one.pixels), len(one.inputs["input"]), len(one.labels)) == (1, 1, 1)
    assert all(len(array) == 1 for array in (*one.outputs.values(), *one.reference.values()))
    assert len(golden.first_cases(SAMPLE, 9).labels) == 2


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    golden.write(tmp_path / "golden.npz", SAMPLE)
    with (
        zipfile.ZipFile(tmp_path / "golden.npz") as whole,
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name) + (bytes(1 << 22) if name == "pixels.npy" else b""))
    for reader in (golden.read, golden.pixels, golden.read_cases):
        with pytest.raises(BadInput, match="more than it is long"):
            reader(tmp_path / "bomb.npz")


@pytest.mark.parametrize("edges", ["5", "[[1, 2, 3]]", '[["a"]]', "{}", "[", "[[[]]]"])
def test_malformed_edges_are_refused(tmp_path: Path, edges: str) -> None:
    golden.write(tmp_path / "golden.npz", SAMPLE)
    with np.load(tmp_path / "golden.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "odd.npz", **{**arrays, "edges": np.array(edges)})
    with pytest.raises(BadInput, match="is not a golden sample"):
        golden.read(tmp_path / "odd.npz")
