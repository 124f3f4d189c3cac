"""Rounding to FP16: the bits of every rule at the ends of the range, and agreement of all callers with the rules."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from deploytool.backends import fp16_emulation
from deploytool.backends.narrow_floats import FP16
from deploytool.data.golden import Arrays
from deploytool.faults.kinds.graph import FaultGraph
from deploytool.host import fp16_rounding
from deploytool.spec import Preprocessing

_TIE_TO_INFINITY = 65520.0  # half a step beyond the largest number
_HALF_SUBNORMAL = 2.0**-25  # a tie between zero and the smallest subnormal
_EXTREMES = (  # value, and the bits of its FP16 form: to nearest, saturated, as a weight
    (0.0, 0x0000, 0x0000, 0x0000),
    (-0.0, 0x8000, 0x8000, 0x8000),
    (2.0**-149, 0x0000, 0x0000, 0x0001),
    (-(2.0**-149), 0x8000, 0x8000, 0x8001),
    (_HALF_SUBNORMAL, 0x0000, 0x0000, 0x0001),
    (float(np.nextafter(np.float32(_HALF_SUBNORMAL), np.float32(1))), 0x0001, 0x0001, 0x0001),
    (2.0**-24, 0x0001, 0x0001, 0x0001),
    (1.5 * 2.0**-24, 0x0002, 0x0002, 0x0002),
    (2.0**-14, 0x0400, 0x0400, 0x0400),
    (1 + 2.0**-11, 0x3C00, 0x3C00, 0x3C00),
    (1 + 3 * 2.0**-11, 0x3C02, 0x3C02, 0x3C02),
    (65504.0, 0x7BFF, 0x7BFF, 0x7BFF),
    (float(np.nextafter(np.float32(_TIE_TO_INFINITY), np.float32(0))), 0x7BFF, 0x7BFF, 0x7BFF),
    (_TIE_TO_INFINITY, 0x7C00, 0x7BFF, 0x7BFF),
    (-_TIE_TO_INFINITY, 0xFC00, 0xFBFF, 0xFBFF),
    (float(np.finfo(np.float32).max), 0x7C00, 0x7BFF, 0x7BFF),
    (float("inf"), 0x7C00, 0x7BFF, 0x7C00),
    (float("-inf"), 0xFC00, 0xFBFF, 0xFC00),
)
_VALUES = np.array([row[0] for row in _EXTREMES], np.float32)
_NEAREST, _SATURATED, _WEIGHTS = (np.array([row[rule] for row in _EXTREMES], np.uint16) for rule in (1, 2, 3))


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_rule_gives_these_bits_at_the_ends_of_the_range(dtype: type[np.floating]) -> None:
    values = _VALUES.astype(dtype)
    assert fp16_rounding.nearest(values).view(np.uint16).tolist() == _NEAREST.tolist()
    assert fp16_rounding.saturate(values).view(np.uint16).tolist() == _SATURATED.tolist()
    assert FP16.round_weights(values).view(np.uint16).tolist() == _WEIGHTS.tolist()


def test_fp16_numbers_are_kept_by_the_rule_for_weights() -> None:
    """All 65,536 bit patterns; NaN stays NaN."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    rounded = FP16.round_weights(halves.astype(np.float32))
    assert np.array_equal(rounded, halves, equal_nan=True)
    assert np.array_equal(np.signbit(rounded), np.signbit(halves))


@pytest.mark.parametrize("shape", [(), (0,), (1, 3, 2)])
def test_the_shape_is_kept(shape: tuple[int, ...]) -> None:
    assert FP16.round_weights(np.ones(shape, np.float32)).shape == shape


def test_nan_is_no_number_by_any_rule() -> None:
    values = np.array([np.nan], np.float32)
    for rule in (fp16_rounding.nearest, fp16_rounding.saturate, FP16.round_weights):
        assert np.isnan(rule(values)).all()


def test_the_limits_are_those_of_the_type() -> None:
    info = np.finfo(np.float16)
    assert float(info.max) == fp16_rounding.LARGEST
    assert float(info.smallest_normal) == fp16_rounding.SMALLEST_NORMAL
    assert float(info.smallest_subnormal) == fp16_rounding.SMALLEST


def test_only_fp32_inputs_are_rounded() -> None:
    arrays: Arrays = {"image": np.ones(2, np.float32), "double": np.ones(2), "tokens": np.ones(2, np.int64)}
    rounded = fp16_rounding.nearest_inputs(arrays)
    assert {name: array.dtype.name for name, array in rounded.items()} == {
        "image": "float16",
        "double": "float64",
        "tokens": "int64",
    }


def test_a_weight_of_a_graph_follows_the_rule_for_weights() -> None:
    rounded = fp16_emulation.round_weight(numpy_helper.from_array(_VALUES, "weight"), FP16)
    assert rounded.name == "weight"
    assert numpy_helper.to_array(rounded).view(np.uint16).tolist() == _WEIGHTS.tolist()


def test_a_weight_of_a_planted_fault_saturates() -> None:
    """The weight of the FP32 copy holds numbers that FP16 has."""
    weight = numpy_helper.from_array(np.zeros_like(_VALUES), "weight")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], [], [weight]))
    graph = FaultGraph(model, half=True, state={}, preprocessing=Preprocessing())
    graph.put("weight", _VALUES)
    assert graph.weight("weight").dtype == np.float32
    assert graph.weight("weight").astype(np.float16).view(np.uint16).tolist() == _SATURATED.tolist()
