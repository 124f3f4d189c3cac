"""What a kernel computes in one go stays undivided: no quantization between a convolution and its activation.

ONNX Runtime and OpenVINO clip to the quantized range where Relu or Clip would, so the activation costs nothing. Other
activations need INT8 values on both sides in ONNX Runtime, whose INT8 convolutions return nothing else: Sigmoid and Mul
have INT8 kernels, HardSwish and HardSigmoid have none and run in FP32 between two INT8 nodes. In TensorRT all of them
stay between the convolution and the next quantization.
"""

from __future__ import annotations

from onnx import NodeProto

from deploytool.rewrites.graph.editable import EditableGraph

_CLIPPING = ("Relu", "Clip")
_FLOAT_RESULT = ("Gemm", "MatMul")  # ONNX Runtime's INT8 kernels of these can return FP32


def end(node: NodeProto, graph: EditableGraph) -> str:
    """The tensor at the end of a node and the activation that its kernel computes as well."""
    tensor = str(node.output[0])
    after = graph.only_consumer(tensor)
    while after is not None and after.op_type in _CLIPPING and after.input[0] == tensor:
        tensor = str(after.output[0])
        after = graph.only_consumer(tensor)
    return tensor


def returns_float(node: NodeProto) -> bool:
    """Whether a heavy node has an INT8 kernel with an FP32 result: the last layer needs no 8-bit scores then."""
    return node.op_type in _FLOAT_RESULT
