"""Converts an FP32 graph to BF16, for GPUs from compute capability 8.0 on.

BF16 has the range of FP32, so that nothing overflows that does not overflow there, and 8 significant bits. Operators
such as Conv accept it from opset 22 on.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from deploytool.backends.narrow_floats import BF16
from deploytool.precision import conversion, opset
from deploytool.precision.conversion import Conversion
from deploytool.rewrites.graph import weights
from deploytool.spec import BF16_OPSET


def convert(single: onnx.ModelProto, *, check: bool = True) -> Conversion:
    """The conversion of an FP32 graph, in opset 22 or its own if that is newer; inputs and outputs stay as they are.

    Nodes without a unique name get one, constant nodes become initializers, and constants beyond the largest BF16
    number, such as masks of the lowest float, become that number: a cast would make them infinite. With `check`, raises
    what the ONNX checker raises for the BF16 graph; a failure of onnx's version converter is raised as it is.
    """
    named = conversion.prepared(opset.raised(single, BF16_OPSET))
    _saturate_constants(named.graph)
    converted = Conversion(named, keep_io=True, narrow=BF16)
    if check:
        weights.check(converted.half)
    return converted


def _saturate_constants(graph: onnx.GraphProto) -> None:
    """Limits the finite values of FP32 weights and filled tensors to the range of BF16."""
    filled = (each.t for node in graph.node for each in node.attribute if each.HasField("t"))
    for tensor in (*graph.initializer, *filled):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = weights.values(tensor)
        beyond = np.isfinite(values) & (np.abs(values) > BF16.largest)
        if beyond.any():
            limited = np.where(beyond, np.copysign(np.float32(BF16.largest), values), values)
            tensor.CopyFrom(numpy_helper.from_array(limited.astype(np.float32), tensor.name))
