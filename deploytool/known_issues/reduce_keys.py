"""Finds attention to spatially reduced keys: TensorRT computes it wrongly for a batch of more than 1.

Reported for SegFormer b0, b1 and b2 and for one encoder block of b2 (NVIDIA/TensorRT#4853, open), in FP32 and FP16, for
fixed and dynamic batches, with TensorRT 10.11 and 11.1 on compute capabilities 8.9 and 12.0. At batch 1 the engines
were right. Which node of the block is compiled wrongly is not known here; the probe is the output of the attention, so
an error of the convolution after it shows at the next probe.

The pattern is an attention whose keys and values are computed from one convolution, by operators that project,
normalise or move them, while its query is not. The kernel of the convolution is as large as its stride, and it reads
tokens that were moved back into an image. So it matches SegFormer and PVT, not ViT (keys and query come from the same
patches), not cross attention to the patches of an image, and not CvT (overlapping kernels).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploytool.known_issues import attention, dataflow
from deploytool.known_issues.attention import Attention
from deploytool.known_issues.dataflow import LAYOUT, Producers
from deploytool.known_issues.place import AffectedReleases, Place

if TYPE_CHECKING:
    import onnx

ISSUE = "NVIDIA/TensorRT#4853"
AFFECTED: tuple[AffectedReleases, ...] = (
    AffectedReleases("tensorrt", since="10.11", fixed_in=None, capabilities=("8.9", "12.0")),
)
WORKAROUND: str | None = "run it with a batch of 1"
MOST_PROBES: int | None = 4

_NORMALISE = {"Add", "Div", "LayerNormalization", "Mul", "Pow", "ReduceMean", "Sqrt", "Sub"}
_TOKEN_OPERATORS = LAYOUT | _NORMALISE | {"Gemm", "MatMul"}


def find(graph: onnx.GraphProto) -> tuple[Place, ...]:
    """Every match in the graph, in graph order."""
    produced = dataflow.producers(graph)
    return tuple(
        Place(found.output, found.nodes)
        for found in attention.find(graph, produced)
        if _has_reduced_keys(found, produced)
    )


def _has_reduced_keys(found: Attention, produced: Producers) -> bool:
    query, keys, values = (
        dataflow.trace(tensor, produced, _TOKEN_OPERATORS).only_end
        for tensor in (found.query, found.keys, found.values)
    )
    return keys is not None and keys == values and keys != query and _reduces_tokens(keys, produced)


def _reduces_tokens(node: onnx.NodeProto, produced: Producers) -> bool:
    """Whether it is a convolution of tokens in which each value is read once."""
    if node.op_type != "Conv":
        return False
    kernel, strides = ([*a.ints] for name in ("kernel_shape", "strides") for a in node.attribute if a.name == name)
    moved = dataflow.trace(node.input[0], produced, {"Cast", "Identity"}).only_end
    return kernel == strides and min(strides) > 1 and moved is not None and moved.op_type in {"Reshape", "Transpose"}
