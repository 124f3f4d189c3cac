"""Exports of zoo models with dynamic height and width."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from deploytool.exporters import dynamo, torchscript
from deploytool.loading import catalog
from deploytool.loading.module import build
from deploytool.spec import Option, Tensor

pytestmark = pytest.mark.integration

EXPORTERS = {"torchscript": torchscript.export, "dynamo": dynamo.export}
MODELS: list[tuple[str, Mapping[str, Option]]] = [
    ("shufflenet_g3", {"width": 0.25}),
    ("mixnet_s", {}),
    ("squeezenet1_1", {}),
    ("mobilenet_v1_025", {"padding": "same"}),
]


@pytest.mark.filterwarnings("ignore")  # of both exporters
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("name", "options"), MODELS, ids=str)
def test_the_graph_accepts_any_height_and_width(
    name: str, options: Mapping[str, Option], exporter: str, tmp_path: Path
) -> None:
    model = catalog.find(name, [Tensor("input", ("batch", 3, "H", "W"))], {**options, "classes": 10})
    with build.with_seed():
        module = build.build(model).module
        example, other = torch.randn(2, 3, 64, 64), torch.randn(3, 3, 33, 66)
    graph = EXPORTERS[exporter](module, model, (example,), 18, tmp_path)
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for images in (example, other):
        (answer,) = session.run(None, {"input": images.numpy()})
        with torch.no_grad():
            expected = module(images).numpy()
        np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("name", "options"), [MODELS[0], MODELS[-1]], ids=str)
def test_a_constant_size_leaves_no_shape_computations(
    name: str, options: Mapping[str, Option], exporter: str, tmp_path: Path
) -> None:
    model = catalog.find(name, arguments={**options, "classes": 10})
    module = build.build(model).module
    graph = EXPORTERS[exporter](module, model, (torch.randn(2, 3, 224, 224),), 18, tmp_path)
    assert not [node.name for node in graph.graph.node if node.op_type == "Shape"]
