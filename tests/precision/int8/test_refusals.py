from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from deploytool.precision.int8.refusals import PARSED, Form, refusals
from tests.int8 import quantized

WEIGHTS: dict[str, npt.NDArray[Any]] = {
    "codes": np.arange(-144, 144).reshape(8, 4, 3, 3).clip(-128, 127).astype(np.int8),
    "floats": np.linspace(-1, 1, 288, dtype=np.float32).reshape(8, 4, 3, 3),
    "ws": np.full(8, 0.01, np.float32),
    "wz": np.zeros(8, np.int8),
    "bias": np.arange(8, dtype=np.int32),
    "bz": np.zeros(8, np.int32),
    "as": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    "az": np.zeros(4, np.int8),
    "odd": np.full(8, 3, np.int8),
    "ub": np.full((8, 4, 3, 3), 7, np.uint8),
    "uz": np.zeros(8, np.uint8),
}
ACTIVATION = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
WEIGHT = "w = DequantizeLinear<axis = 0>(codes, ws, wz) "
CONV = "y = Conv<pads = [1, 1, 1, 1]>(d, w)"
PLAIN = "float s = {0.1}, int8 z = {0}"


def graph(constants: str, body: str, opset: int = 21) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": {opset}]>
        g (float[2,4,8,8] x, float k) => (float[2,8,8,8] y) <{constants}> {{ {body} }}""")
    del model.graph.value_info[:]
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(each, name) for name, each in WEIGHTS.items() if name in used
    )
    if "k" not in used:
        del model.graph.input[1]
    return model


REFUSED: dict[str, tuple[str, str, dict[Form, list[str]]]] = {
    "zero point": ("float s = {0.1}, int8 z = {5}", ACTIVATION + WEIGHT + CONV, {Form.ASYMMETRIC: ["q", "d"]}),
    "zero points of weights": (
        PLAIN,
        ACTIVATION + "w = DequantizeLinear<axis = 0>(codes, ws, odd) " + CONV,
        {Form.ASYMMETRIC: ["w"]},
    ),
    "uint8": ("float s = {0.1}, uint8 z = {0}", ACTIVATION + WEIGHT + CONV, {Form.UINT8: ["q", "d"]}),
    "uint8 by default": (
        "float s = {0.1}",
        "q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) " + WEIGHT + CONV,
        {Form.UINT8: ["q", "d"]},
    ),
    "uint8 weights": (
        PLAIN,
        ACTIVATION + "w = DequantizeLinear<axis = 0>(ub, ws, uz) " + CONV,
        {Form.UINT8: ["w"]},
    ),
    "int16": ("float s = {0.1}, int16 z = {0}", ACTIVATION + WEIGHT + CONV, {Form.WIDE_INTEGERS: ["q", "d"]}),
    "int32 bias": (
        PLAIN,
        ACTIVATION + WEIGHT + "b = DequantizeLinear<axis = 0>(bias, ws, bz) y = Conv<pads = [1, 1, 1, 1]>(d, w, b)",
        {Form.INT32_BIAS: ["b"]},
    ),
    "channels": (
        "float s = {0.1}",
        "q = QuantizeLinear<axis = 1>(x, as, az) d = DequantizeLinear<axis = 1>(q, as, az) " + WEIGHT + CONV,
        {Form.CHANNEL_ACTIVATION: ["q", "d"]},
    ),
    "negative scale": (
        "float s = {-0.1}, int8 z = {0}",
        ACTIVATION + WEIGHT + CONV,
        {Form.NOT_POSITIVE_SCALE: ["q", "d"]},
    ),
    "unpaired": (
        PLAIN,
        ACTIVATION.replace("d =", "m = MaxPool<kernel_shape = [1, 1]>(q) d =").replace("(q, s, z) w", "(m, s, z) w")
        + WEIGHT
        + CONV,
        {Form.UNPAIRED_QUANTIZE: ["q"]},
    ),
    "integer operator": (
        PLAIN,
        "q = QuantizeLinear(x, s, z) c = QLinearConv<pads = [1, 1, 1, 1]>(q, s, z, codes, ws, wz, s, z) "
        "y = DequantizeLinear(c, s, z)",
        {Form.INTEGER_OPERATOR: ["c"], Form.UNPAIRED_QUANTIZE: ["q"]},
    ),
    "scale of an input": (
        "int8 z = {0}",
        ACTIVATION.replace(" s,", " k,") + WEIGHT + CONV,
        {Form.COMPUTED_SCALE: ["q", "d"]},
    ),
}
ALLOWED = {
    "symmetric": (PLAIN, ACTIVATION + WEIGHT + CONV),
    "quantised weights": (
        PLAIN,
        ACTIVATION + "v = QuantizeLinear<axis = 0>(floats, ws, wz) w = DequantizeLinear<axis = 0>(v, ws, wz) " + CONV,
    ),
    "type by attribute": (
        "float s = {0.1}",
        "q = QuantizeLinear<output_dtype = 3>(x, s) d = DequantizeLinear(q, s) " + WEIGHT + CONV,
    ),
    "no quantisation": (PLAIN, "y = Conv<pads = [1, 1, 1, 1]>(x, floats)"),
}


def named(model: onnx.ModelProto) -> dict[Form, list[str]]:
    found: dict[Form, list[str]] = {}
    for each in refusals(model):
        found.setdefault(each.form, []).append(each.node)
        assert each.node in each.sentence
    return found


@pytest.mark.parametrize("name", REFUSED)
def test_a_form_is_named_with_its_nodes(name: str) -> None:
    constants, body, expected = REFUSED[name]
    assert named(graph(constants, body)) == expected


@pytest.mark.parametrize("name", ALLOWED)
def test_what_tensorrt_takes_is_not_named(name: str) -> None:
    assert named(graph(*ALLOWED[name])) == {}


def test_every_form_has_a_case() -> None:
    assert {form for _, _, expected in REFUSED.values() for form in expected} == set(Form)


@pytest.mark.parametrize("form", list(quantized.Form))
def test_of_the_forms_of_onnx_runtime_the_symmetric_one_is_taken(form: quantized.Form, tmp_path: Path) -> None:
    found = named(onnx.load(quantized.quantised(quantized.network(0), tmp_path, form)))
    assert (not found) is (form is quantized.Form.TENSORRT)
    assert (Form.INT32_BIAS in found) is (form is not quantized.Form.TENSORRT)


def test_the_node_is_named_where_it_has_a_name() -> None:
    model = graph(*REFUSED["zero point"][:2])
    model.graph.node[0].name = "stem/quantize"
    assert refusals(model)[0].sentence == "QuantizeLinear stem/quantize has a zero point that is not 0"


def parses(model: onnx.ModelProto) -> bool:
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    return bool(trt.OnnxParser(network, logger).parse(model.SerializeToString()))


def cases() -> Sequence[str]:
    return [name for name in REFUSED if name != "scale of an input"]  # it crashes the parser of TensorRT-RTX 1.7.1


@pytest.mark.parametrize("name", cases())
def test_the_parser_of_tensorrt_rtx_refuses_them(name: str) -> None:
    constants, body, expected = REFUSED[name]
    taken = set(expected) <= PARSED and "weights" not in name
    assert parses(graph(constants, body)) is taken


@pytest.mark.parametrize("name", ALLOWED)
def test_the_parser_of_tensorrt_rtx_takes_the_others(name: str) -> None:
    assert parses(graph(*ALLOWED[name]))
