"""What a run records of its corners for the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deploytool.data import corner_cases, golden, images, synthetic
from deploytool.data.golden import Arrays, Floor, Golden, Noise
from deploytool.errors import StageFailed
from deploytool.parity import corner_records, fp8_answers, int8_answers, metrics
from deploytool.parity.metrics import Tolerances
from deploytool.parity.shape_corners import draw
from deploytool.rewrites.graph import storage
from deploytool.spec import Model, Precision, Preprocessing, Range, Tensor

MODEL = Model(
    "mixed",
    "nowhere:made",
    inputs=(
        Tensor("image", ("batch", 3, "H", "W")),
        Tensor("tokens", ("batch", "H"), "int64", 50),
    ),
)
SIZES = {"H": Range(8, 8, 16), "W": Range(8, 8, 8)}
NOISE = Noise(Floor(1e-6, 1e-7), Floor(1e-3, 1e-4))
ARRAY = {"y": np.ones((1, 1), np.float32)}
SAMPLE = Golden(np.zeros((1, 0, 0, 3), np.uint8), ARRAY, ARRAY, ARRAY, np.array([-1]), Preprocessing(), NOISE)


def source(image: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    return {"y": image.sum(axis=(1, 2, 3))[:, None] + tokens.sum(axis=1)[:, None]}


def local(name: str, inputs: Arrays) -> Tolerances:
    side = inputs["image"].shape[2]
    return metrics.tolerances(Noise(Floor(1e-6 * side, 1e-7), Floor(1e-3, 1e-4)), {})


def unmeasured(name: str, inputs: Arrays) -> Tolerances:
    raise StageFailed("the model has no FP64 form", "none")


def test_the_cases_of_each_corner_are_recorded_with_the_noise_there(tmp_path: Path) -> None:
    found = draw(MODEL, SIZES, source)
    records = corner_records.write(tmp_path, found, local, {}, SAMPLE)
    assert [record.sizes for record in records] == [{"H": 8, "W": 8}, {"H": 16, "W": 8}, {"H": 13, "W": 8}]
    for record, corner in zip(records, found, strict=True):
        assert record.limits["fp32"].max_error == pytest.approx(16e-6 * record.sizes["H"])
        assert set(record.limits) == {"fp32", "fp16"}
        with (tmp_path / record.file).open("rb") as opened:
            cases = corner_cases.parse(opened, tmp_path / record.file)
        assert {name: array.dtype.name for name, array in cases.pixels.items()} == {"image": "uint8"}
        assert set(cases.others) == {"tokens"}
        inputs = cases.inputs(MODEL.inputs, MODEL.preprocessing)
        assert {name: array.tobytes() for name, array in inputs.items()} == {
            name: array.tobytes() for name, array in corner.inputs.items()
        }
        np.testing.assert_array_equal(cases.answers["y"], corner.answers["y"])


def test_where_the_noise_cannot_be_measured_a_corner_has_no_tolerances_of_its_own(tmp_path: Path) -> None:
    records = corner_records.write(tmp_path, draw(MODEL, SIZES, source), unmeasured, {}, SAMPLE)
    assert [record.limits for record in records] == [{}, {}, {}]
    assert all((tmp_path / record.file).is_file() for record in records)


def test_equal_cases_give_equal_bytes_and_others_are_no_cases(tmp_path: Path) -> None:
    pixels, inputs = synthetic.draw(MODEL, 2, 0, {"H": 8, "W": 8})
    cases = corner_cases.CornerCases(pixels, {"tokens": inputs["tokens"]}, source(**inputs))
    for name in ("one.npz", "two.npz"):
        corner_cases.write(tmp_path / name, cases)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    np.savez_compressed(tmp_path / "large.npz", x=np.zeros(1 << 20))
    with (tmp_path / "large.npz").open("rb") as opened, pytest.raises(Exception, match="it says that it holds more"):
        corner_cases.parse(opened, tmp_path / "large.npz")


def test_grey_images_become_the_same_inputs_again() -> None:
    grey = Tensor("image", ("batch", "H", "W", 1), "uint8")
    how = Preprocessing(layout="NHWC")
    model = Model("grey", "nowhere:made", inputs=(grey,), preprocessing=how)
    pixels, inputs = synthetic.draw(model, 2, 0, {"H": 8, "W": 8})
    cases = corner_cases.CornerCases(pixels, {}, {})
    np.testing.assert_array_equal(cases.inputs(model.inputs, how)["image"], inputs["image"])
    np.testing.assert_array_equal(inputs["image"], images.luma(pixels["image"]))


def test_graphs_in_8_bits_of_the_same_name_have_answers_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = metrics.tolerances(Noise(Floor(1e-6, 1e-7), Floor(1e-3, 1e-4)), {}).fp16
    monkeypatch.setattr(storage, "load", lambda path: path)
    for module, value in ((int8_answers, 8.0), (fp8_answers, 9.0)):
        monkeypatch.setattr(module, "record", lambda graph, inputs, value=value: {"y": np.full(2, value)})
        monkeypatch.setattr(module, "limits", lambda graph, answers, sample: limits)
    graphs = {Path("int8/model.onnx"): Precision.INT8, Path("fp8/model.onnx"): Precision.FP8}
    first, *_ = corner_records.write(tmp_path, draw(MODEL, SIZES, source), local, graphs, SAMPLE)
    recorded = {key: golden.read_answers(tmp_path / each.file)["y"][0] for key, each in first.int8.items()}
    assert recorded == {"int8/model.onnx": 8.0, "fp8/model.onnx": 9.0}
