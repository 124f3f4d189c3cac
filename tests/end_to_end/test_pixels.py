"""A bundle that takes pixels answers an image as the bundle of the same model without normalisation does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import deploytool
from deploytool import device
from deploytool.bundle.manifest import read_manifest
from deploytool.results.artifact import Kind
from deploytool.spec import Preprocessing, Stage, Tensor
from tests.conftest import TINY

MODEL = replace(TINY, preprocessing=Preprocessing(resize=32, crop=32, channels="BGR", mean=(0.5, 0.4, 0.3)))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, image: np.ndarray) -> tuple[deploytool.Run, np.ndarray]:
    """A run of the model with images, and its bundle's answer."""
    run = deploytool.export(MODEL, quick=True, pack=True, out=tmp_path_factory.mktemp("images") / "run").check()
    assert run.bundle
    with device.open(str(run.bundle)) as model:
        return run, model(image)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_model_in_pytorch(
    exporter: str, expected: tuple[deploytool.Run, np.ndarray], image: np.ndarray, tmp_path: Path
) -> None:
    _, answer = expected
    packs = exporter == "torchscript"
    run = deploytool.export(
        MODEL,
        io="uint8",
        layout="NHWC",
        quick=True,
        exporter=exporter,
        to="fp16" if packs else "onnx",
        pack=packs,
        out=tmp_path / "run",
    ).check()
    assert run.onnx
    graph = onnx.load(run.onnx).graph
    assert [node.op_type for node in graph.node if "input" in node.input] == ["Cast"]
    if run.bundle is None:
        return
    manifest = read_manifest(run.bundle)
    assert manifest.inputs == (Tensor("input", ("batch", 32, 32, 3), "uint8", 256),)
    assert (manifest.preprocessing.channels, manifest.preprocessing.scale) == ("RGB", 1)
    config = (run.bundle / "models" / "tiny_fp16" / "config.pbtxt").read_text()
    assert '{ name: "input" data_type: TYPE_UINT8 dims: [ 32, 32, 3 ] }' in config
    with device.open(str(run.bundle)) as model:
        np.testing.assert_allclose(model(image), answer, atol=1e-6)


def test_a_given_graph(expected: tuple[deploytool.Run, np.ndarray], image: np.ndarray, tmp_path: Path) -> None:
    before, answer = expected
    run = deploytool.export(
        str(before.folder / Stage.EXPORT / Kind.GRAPH.value),
        io="uint8",
        layout="NHWC",
        quick=True,
        pack=True,
        out=tmp_path / "run",
        resize=32,
        channels="BGR",
        mean=(0.5, 0.4, 0.3),
        std=(0.229, 0.224, 0.225),
    ).check()
    assert run.bundle
    with device.open(str(run.bundle)) as model:
        np.testing.assert_allclose(model(image), answer, atol=1e-6)
