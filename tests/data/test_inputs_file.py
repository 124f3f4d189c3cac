"""Golden inputs from a user's file: sound, text and boxes; a wrong file is refused with a one-line message."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import deploytool
from deploytool.cli import params
from deploytool.data import golden, inputs_file
from deploytool.errors import BadInput
from deploytool.results.report import read as read_report
from deploytool.spec import Range, Tensor
from tests.conftest import ROOT

TYPED = ROOT / "tests" / "user_models" / "input_dtypes.py"
TEXT = (Tensor("ids", ("batch", "L"), "int64", 100), Tensor("mask", ("batch", "L"), "bool"))
FREE = {"L": Range(4, 8, 16)}
Values = npt.NDArray[Any]


def saved(path: Path, **arrays: Values) -> Path:
    np.savez(path, allow_pickle=True, **arrays)
    return path


def text(cases: int = 3, length: int = 8) -> dict[str, Values]:
    rng = np.random.default_rng(0)
    return {"ids": rng.integers(0, 100, (cases, length)), "mask": rng.integers(0, 2, (cases, length)).astype(bool)}


@pytest.mark.parametrize("length", [4, 7, 16])
def test_arrays_are_matched_by_name_at_any_size_of_the_range(length: int, tmp_path: Path) -> None:
    given = text(length=length)
    path = saved(tmp_path / "in.npz", mask=given["mask"], ids=given["ids"].astype(">i8"))
    found = inputs_file.read(path, TEXT, FREE, 2)
    assert list(found) == ["ids", "mask"]
    assert found["ids"].dtype == np.int64
    for name, array in found.items():
        np.testing.assert_array_equal(array, given[name][:2])


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"mask": None}, "holds ids, and the inputs are ids, mask"),
        ({"more": np.zeros(3)}, "holds ids, mask, more, and the inputs are ids, mask"),
        ({"ids": np.zeros((3, 8), np.int32)}, "ids is int32, and the input is int64"),
        ({"ids": np.zeros((3, 8))}, "ids is float64, and the input is int64"),
        ({"ids": np.zeros((3, 17), np.int64)}, "ids has shape (3, 17), the cases first: 17, and L is from 4 to 16"),
        ({"ids": np.zeros((3, 8, 1), np.int64)}, "3 dimensions, and not 2"),
        ({"ids": np.zeros((3, 9), np.int64)}, "L is 9 and 8"),
        ({"ids": np.zeros((4, 8), np.int64)}, "different numbers of cases: 4 of ids, 3 of mask"),
        ({"ids": np.zeros((0, 8), np.int64)}, "ids has no cases"),
        ({"ids": np.int64(3)}, "ids has no cases"),
        ({"ids": np.array([["a"] * 8] * 3)}, "ids is of <U1"),
        ({"ids": np.zeros((3, 8), complex)}, "ids is of complex128"),
        ({"ids": np.array([[None] * 8] * 3)}, "holds Python objects, which run code"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(
    changed: dict[str, Values | None], line: str, tmp_path: Path
) -> None:
    arrays = {name: array for name, array in {**text(), **changed}.items() if array is not None}
    with pytest.raises(BadInput) as refused:
        inputs_file.read(saved(tmp_path / "in.npz", **arrays), TEXT, FREE, 99)
    assert line in str(refused.value)
    assert "\n" not in f"{refused.value}{refused.value.remedy}"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad: float, tmp_path: Path) -> None:
    sound = np.zeros((2, 16), np.float32)
    sound[1, 3] = bad
    with pytest.raises(BadInput, match="sound holds NaN or infinite numbers"):
        inputs_file.read(saved(tmp_path / "in.npz", sound=sound), [Tensor("sound", ("batch", 16))], {}, 9)


class Planted:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (f"{Path(__file__).parent}/pickle-was-run", "w"))


def test_a_file_that_is_no_npz_is_refused_and_no_code_in_it_is_run(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Planted()))
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "planted.npz", allow_pickle=True, ids=np.array([Planted()], object))
    whole = saved(tmp_path / "whole.npz", **text()).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("text.npz", "pickle.npz", "empty.npz", "one.npy", "planted.npz", "cut.npz"):
        for call in (lambda path: inputs_file.read(path, TEXT, FREE, 9), inputs_file.declared):
            with pytest.raises(BadInput) as refused:
                call(tmp_path / name)
            assert "\n" not in f"{refused.value}{refused.value.remedy}"
    assert not (Path(__file__).parent / "pickle-was-run").exists()


def test_a_file_declares_the_inputs(tmp_path: Path) -> None:
    more: dict[str, Values] = {"t": np.array([3, 900, 0]), "sound": np.zeros((3, 16), np.float32)}
    path = saved(tmp_path / "in.npz", **text(), **more)
    ids, mask, t, sound = inputs_file.declared(path)
    assert (ids.shape, ids.dtype, ids.below) == (("batch", 8), "int64", int(text()["ids"].max()) + 1)
    assert (mask.shape, mask.dtype) == (("batch", 8), "bool")
    assert (t.shape, t.below) == (("batch",), 901)
    assert (sound.shape, sound.dtype) == (("batch", 16), "float32")


@pytest.mark.integration
def test_golden_inputs_are_those_of_the_file_and_a_changed_file_replaces_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    given: dict[str, Values] = {"image": rng.random((5, 3, 16, 16), np.float32), "t": rng.integers(0, 1000, 5)}
    path, home = saved(tmp_path / "in.npz", **given), tmp_path / "run"

    def export(images: int | None = None) -> deploytool.Run:
        return deploytool.export(
            f"{TYPED}:Stepped", golden_inputs=path, images=images, quick=True, to="onnx", out=home
        ).check()

    written = read_report(export().report_json)
    sample = golden.read(home / "golden" / "golden.npz")
    for name, array in given.items():
        np.testing.assert_array_equal(sample.inputs[name], array)
    assert written.images == 5
    assert f"golden: golden inputs are read from {path}" in written.remarks
    saved(path, **{**given, "image": given["image"] * 2})
    export(images=2)
    np.testing.assert_array_equal(golden.read(home / "golden" / "golden.npz").inputs["image"], given["image"][:2] * 2)


def test_a_file_and_a_folder_are_mutually_exclusive(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--data and --inputs are mutually exclusive"):
        deploytool.export(
            f"{TYPED}:Mean",
            inputs=params.tensors(["3x8x8"]),
            data=tmp_path,
            golden_inputs=saved(tmp_path / "in.npz", **text()),
        )
    with pytest.raises(BadInput, match=r"there is no file .*nothing\.npz"):
        deploytool.export(f"{TYPED}:Mean", golden_inputs=tmp_path / "nothing.npz")


@pytest.mark.integration
def test_a_model_that_rejects_synthetic_inputs_is_run_with_the_users(tmp_path: Path) -> None:
    corner = np.random.default_rng(2).random((4, 6, 2), np.float32)
    path = saved(tmp_path / "in.npz", boxes=np.concatenate([corner, corner + corner], 2))
    run = deploytool.export(f"{TYPED}:Sorted", golden_inputs=path, quick=True, to="onnx", out=tmp_path / "run")
    assert golden.read(run.folder / "golden" / "golden.npz").inputs["boxes"].shape == (4, 6, 4)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs_file, "_MAX_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1 << 19, 1), np.float32))
    with pytest.raises(BadInput, match="decompression bomb: 2097"):
        inputs_file.declared(tmp_path / "bomb.npz")
    np.savez(tmp_path / "plain.npz", x=np.zeros((1 << 19, 1), np.float32))
    assert inputs_file.declared(tmp_path / "plain.npz")[0].name == "x"
