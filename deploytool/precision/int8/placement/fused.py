"""What a kernel computes in one go stays undivided: no quantization between a convolution and its activation.

ONNX Runtime clips to the quantized range where Relu or Clip would, so the activation costs nothing. Other activations
need INT8 values on both sides, because its INT8 convolutions return nothing else: Sigmoid and Mul have INT8 kernels,
HardSwish and HardSigmoid have none and run in FP32 between two INT8 nodes. OpenVINO's convolutions compute all of them
before they quantize: MixNet-S takes 0.72 times as long as with a quantization before each (AVX-512 with VNNI, one
thread). In TensorRT all of them stay between the convolution and the next quantization.
"""

from __future__ import annotations

from onnx import NodeProto

from deploytool.rewrites.graph.editable import EditableGraph
from deploytool.spec import StrEnum


class Fuses(StrEnum):
    """What the INT8 kernels of a runtime compute besides the convolution: clipping alone, or every activation."""

    CLIPPING = "clipping"  # ONNX Runtime
    ACTIVATIONS = "activations"  # OpenVINO


_CLIPPING = ("Relu", "Clip")
_ACTIVATIONS = (
    *_CLIPPING,
    *("Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Sigmoid", "Softplus", "Tanh"),
)
_FLOAT_RESULT = ("Gemm", "MatMul")  # ONNX Runtime's INT8 kernels of these can return FP32


def end(node: NodeProto, graph: EditableGraph, fuses: Fuses) -> str:
    """The tensor at the end of a node and the activations that its kernel computes as well."""
    tensor = str(node.output[0])
    while (after := _after(tensor, graph, fuses)) is not None:
        tensor = str(after.output[0])
    return tensor


def _after(tensor: str, graph: EditableGraph, fuses: Fuses) -> NodeProto | None:
    """The last node of the activation that alone reads a tensor; None if anything else does."""
    after = graph.only_consumer(tensor)
    if after is not None:
        fused = _CLIPPING if fuses is Fuses.CLIPPING else _ACTIVATIONS
        return after if after.op_type in fused and after.input[0] == tensor else None
    return _gated_by_itself(tensor, graph) if fuses is Fuses.ACTIVATIONS else None


def _gated_by_itself(tensor: str, graph: EditableGraph) -> NodeProto | None:
    """The product of a tensor and its own activation, as in `x * sigmoid(x)`, if nothing else reads either."""
    readers = graph.consumers(tensor)
    if len(readers) != 2 or tensor in graph.outputs:
        return None
    gate, product = sorted(readers, key=lambda node: node.op_type == "Mul")
    is_gate = gate.op_type in _ACTIVATIONS and graph.only_consumer(gate.output[0]) is product
    return product if is_gate and product.op_type == "Mul" and set(product.input) == {tensor, gate.output[0]} else None


def returns_float(node: NodeProto) -> bool:
    """Whether a heavy node has an INT8 kernel with an FP32 result: the last layer needs no 8-bit scores then."""
    return node.op_type in _FLOAT_RESULT
