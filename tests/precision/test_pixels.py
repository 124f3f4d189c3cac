"""What normalises pixels stays in FP32; an integer input that is no image has no such nodes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from deploytool.precision import fp16, hazards, pixels

_ARITHMETIC = """
  f = Cast<to=1>(image)
  t = Transpose<perm=[0,3,1,2]>(f)
  m = Mul(t, scale)
  s = Sub(m, mean)
  d = Div(s, std)
  y = Conv<pads=[1,1,1,1]>(d, kernel)
"""


def graph(kind: str, *, moved: str = "") -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": 18]> g ({kind} image) => (float[N,8,6,5] y) {{{moved or _ARITHMETIC}}}'
    model, rng = parser.parse_model(text), np.random.default_rng(0)
    arrays = {"scale": np.array(1 / 255), "mean": rng.random((1, 3, 1, 1)), "std": rng.random((1, 3, 1, 1)) + 0.5}
    arrays["kernel"] = rng.standard_normal((8, 3, 3, 3))
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def kept(model: onnx.ModelProto) -> set[str]:
    conversion = fp16.convert(model, keep_io=True)
    found = pixels.find(conversion.single, [node.name for node in conversion.nodes])
    assert hazards.find(conversion).pixels == found
    half = conversion.keeping(found)
    return {node.op_type for node in half.graph.node if node.name in found}


def test_the_normalisation_stays_in_fp32_up_to_the_convolution() -> None:
    assert kept(graph("uint8[N,6,5,3]")) == {"Cast", "Transpose", "Mul", "Sub", "Div"}


@pytest.mark.parametrize("kind", ["int32[N,6,5,3]", "uint8[N,6,5,4]", "uint8[N,6,5]"])
def test_other_inputs_are_no_pixels(kind: str) -> None:
    model = graph(kind, moved="f = Cast<to=1>(image) a = Mul(f, scale) y = Sub(a, scale)")
    model.graph.output[0].type.tensor_type.shape.CopyFrom(model.graph.input[0].type.tensor_type.shape)
    assert kept(model) == set()


def test_the_error_in_fp16_would_be_several_times_larger() -> None:
    levels = np.arange(256, dtype=np.float32)
    mean, std = np.float32(0.485), np.float32(0.229)
    exact = (levels.astype(np.float64) / 255 - 0.485) / 0.229
    in_fp32 = ((levels * np.float32(1 / 255) - mean) / std).astype(np.float16)
    in_fp16 = (levels.astype(np.float16) * np.float16(1 / 255) - np.float16(mean)) / np.float16(std)
    errors = [np.abs(values.astype(np.float64) - exact).max() for values in (in_fp32, in_fp16)]
    assert errors[0] <= 2.0**-10  # half a step of FP16 at the largest value
    assert errors[1] > 2 * errors[0]
