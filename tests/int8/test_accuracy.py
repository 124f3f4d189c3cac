"""The parts of `make int8`: pictures that are in one set only, the peers' graphs, and the rows of the table."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from deploytool.backends import int8_emulation, onnxruntime
from deploytool.errors import MissingBackend
from deploytool.results.int8_forms import Form
from deploytool.results.measure import Difference, Inferiority, Measure
from tests import given_graphs
from tests.int8 import accuracy, pictures, quantizers
from tests.int8.accuracy import Graph, Row


def _contents(folder: Path) -> set[bytes]:
    found = [np.asarray(Image.open(path)).tobytes() for path in sorted(folder.rglob("*.png"))]
    assert found
    return set(found)


def test_crops_for_tests_come_from_other_squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CROPS_FOR_TRAINING", "CALIBRATION", "TEST_CROPS"):
        monkeypatch.setattr(pictures, name, 24)
    pictures.write_crops(tmp_path)
    names = {folder.name for folder in (tmp_path / "test").iterdir()}
    assert len(names) == len(pictures.PHOTOGRAPHS)
    assert not _contents(tmp_path / "test") & (_contents(tmp_path / "train") | _contents(tmp_path / "calibration"))
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:128, :256]  # red and green tell the square
    photograph = np.stack([rows // 64 * 100, columns // 64 * 60, rng.integers(0, 99, rows.shape)], 2).astype(np.uint8)
    for tests in (False, True):
        squares = {tuple(pictures._crop(photograph, tests, rng)[16, 16, :2] // (100, 60)) for _ in range(40)}
        assert {(int(row) + int(column)) % 2 for row, column in squares} == {int(tests)}


def test_digits_for_tests_are_no_others(tmp_path: Path) -> None:
    pictures.write_digits(tmp_path)
    files = {
        name: {path.name for path in (tmp_path / name).rglob("*.png")} for name in ("train", "calibration", "test")
    }
    assert len(files["calibration"]) == pictures.CALIBRATION
    assert files["calibration"] < files["train"]
    assert not files["test"] & files["train"]


def test_onnxruntime_quantises_by_its_defaults(tmp_path: Path) -> None:
    graph = tmp_path / "graph.onnx"
    onnx.save(given_graphs.conv(), graph)
    rng = np.random.default_rng(0)
    cases = [{"image": rng.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(8)]
    quantized = quantizers.onnxruntime_defaults(graph, cases, tmp_path / "quantized.onnx")
    with onnxruntime.start(graph) as source:
        expected = source(**cases[0])["scores"]
    for start in (int8_emulation.start, quantizers.onnxruntime_session):
        with start(quantized) as session:
            got = session(**cases[0])["scores"]
        assert 0 < np.abs(got - expected).max() < 0.1 * np.abs(expected).max()


def test_a_missing_nncf_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizers, "ENVIRONMENT", tmp_path)
    assert quantizers.nncf_version() == "not installed"
    with pytest.raises(MissingBackend, match="nncf is not installed"):
        quantizers.nncf_defaults(tmp_path / "graph.onnx", [], tmp_path / "out.xml")
    (tmp_path / "lib/python3.11/site-packages/nncf-3.4.0.dist-info").mkdir(parents=True)
    assert quantizers.nncf_version() == "3.4.0"


def test_rows_have_the_loss_and_what_ours_has_more() -> None:
    difference = Difference(-0.002, -0.006, 0.001)
    measure = Measure(0.973, 0.975, 900, difference, Inferiority.NOT_WORSE)
    ours = Row(Graph("deploytool", Form.U8S7, "ONNX Runtime", nullcontext), measure, None)  # type: ignore[arg-type]
    peer = Row(Graph("nncf", None, "OpenVINO", nullcontext), measure, Difference(0.001, -0.002, 0.004))  # type: ignore[arg-type]
    assert list(accuracy.lines(accuracy.MODELS[0], 900, [ours, peer])) == [
        "| digits | top1, 900 | 97.50 | deploytool, u8s7 | ONNX Runtime | 97.30 | 0.20 (-0.10 to 0.60) | not worse "
        "| – |",
        "| digits | top1, 900 | 97.50 | nncf | OpenVINO | 97.30 | 0.20 (-0.10 to 0.60) | not worse "
        "| 0.10 (-0.20 to 0.40) |",
    ]
