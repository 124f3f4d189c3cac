"""Sessions compute FP32 activations with quantised weights in FP32, as their graphs say."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from deploytool.backends import onnxruntime
from deploytool.rewrites.graph import zero_points
from tests import given_graphs


@pytest.mark.parametrize("kind", ["int8", "int8 blocks", "int4 blocks"])
def test_activations_stay_fp32(kind: str) -> None:
    """In ONNX Runtime as it is by default they are rounded to INT8."""
    content = zero_points.written(given_graphs.weights_only(kind)).SerializeToString()
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    with onnxruntime.start(content, optimise=False) as session:
        expected = session(x=x)["y"]
    with onnxruntime.start(content) as session:
        np.testing.assert_allclose(session(x=x)["y"], expected, atol=1e-5)
    (rounded,) = ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert np.abs(rounded - expected).max() > 1e-3 * np.abs(expected).max()
