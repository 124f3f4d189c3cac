"""A given graph that takes pixels: the cast comes first, and the answers are those for normalised images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from deploytool.backends import eager, given_graph
from deploytool.data import pixel_inputs
from deploytool.loading.graph import definition, source
from deploytool.spec import Model, Preprocessing, Tensor
from tests import given_graphs
from tests.pixels import Pixels, by_channel

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
HOW = Preprocessing(mean=MEAN, std=STD, channels="BGR", resize=16, crop=16)


def taking(path: Path, layout: str) -> Model:
    return pixel_inputs.taking_pixels(replace(definition.read(path, "conv", ()), preprocessing=HOW), layout)


def drawn() -> Pixels:
    made = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    made[0], made[1] = 0, 255
    return made


def answers(graph: bytes, name: str, batch: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {name: batch})[0])


@pytest.mark.parametrize("opset", [9, 18])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_graph_normalises_its_pixels(tmp_path: Path, layout: str, opset: int) -> None:
    path, pixels = tmp_path / "conv.onnx", drawn()
    onnx.save(given_graphs.conv(opset), path)
    graph = source.graph(taking(path, layout))
    onnx.checker.check_model(graph, full_check=True)
    assert [node.op_type for node in graph.graph.node if "image" in node.input] == ["Cast"]
    given = pixels if layout == "NHWC" else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    expected = answers(path.read_bytes(), "image", by_channel(pixels, MEAN, STD, 1 / 255, bgr=True))
    np.testing.assert_array_equal(answers(graph.SerializeToString(), "image", given), expected)
    module = source.module(taking(path, layout))
    with torch.no_grad():
        (computed,) = module(torch.from_numpy(given)).values()
    np.testing.assert_allclose(computed, expected, rtol=1e-5, atol=1e-6)


def test_the_file_as_given_gets_normalised_images(tmp_path: Path) -> None:
    path, weights, pixels = tmp_path / "conv.onnx", tmp_path / "weights.safetensors", drawn()
    onnx.save(given_graphs.conv(), path)
    model = replace(taking(path, "NHWC"), outputs=(Tensor("scores", ("batch", 10)),))
    eager.save(source.module(model).state_dict(), model, weights)
    expected = answers(path.read_bytes(), "image", by_channel(pixels, MEAN, STD, 1 / 255, bgr=True))
    with given_graph.start(weights) as session:
        for turned in (pixels, pixels, pixels[::-1]):  # what is kept of a call must not answer another
            wanted = expected if turned is pixels else expected[::-1]
            np.testing.assert_array_equal(session(image=np.ascontiguousarray(turned))["scores"], wanted)
