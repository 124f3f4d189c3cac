"""Converts an FP32 graph to FP16."""

from __future__ import annotations

import onnx

from deploytool.backends.narrow_floats import FP16
from deploytool.precision import conversion, mask_floors
from deploytool.precision.conversion import Conversion
from deploytool.rewrites.graph import weights


def convert(single: onnx.ModelProto, *, keep_io: bool, check: bool = True) -> Conversion:
    """The conversion of an FP32 graph; with `keep_io` casts stand after FP32 inputs and before FP32 outputs.

    Nodes without a unique name get one, constant nodes become initializers, and sums of scores and a mask of the lowest
    float get a lower limit. Weights are rounded by `NarrowFloat.round_weights`. With `check`, raises what the ONNX
    checker raises for the FP16 graph.
    """
    named = conversion.prepared(single)
    mask_floors.add(named)
    converted = Conversion(named, keep_io, FP16)
    if check:
        weights.check(converted.half)
    return converted
