"""Finds FP16 attention with rotary position embeddings: TensorRT's fused kernel for it is wrong on Blackwell.

Reported for SAM 3 in FP16 and BF16 (NVIDIA/TensorRT#4837, open), with TensorRT 10.16 on a consumer Blackwell GPU
(compute capability 12.0): the first block of its ViT is wrong already, the FP32 engine is right, and so are engines in
which the attention is not fused. The report names the fused multi-head attention as the cause and no smaller pattern.
A ViT without rotary embeddings is not reported, and not matched.

The pattern is an attention whose query and keys are rotated, for all tokens or for all after a prefix, and whose two
products read FP16 or BF16. So it matches SAM 3 and DINOv3 in FP16, not the same attention kept in FP32, not ViT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploytool.known_issues import attention, dataflow
from deploytool.known_issues.place import AffectedReleases, Place

if TYPE_CHECKING:
    import onnx

ISSUE = "NVIDIA/TensorRT#4837"
AFFECTED: tuple[AffectedReleases, ...] = (
    AffectedReleases("tensorrt", since="10.16", fixed_in=None, capabilities=("12.0",)),
)
WORKAROUND: str | None = "keep the attention in FP32 with --keep-fp32"
MOST_PROBES: int | None = 4

_HALF = {dataflow.FLOAT16, dataflow.BFLOAT16}


def find(graph: onnx.GraphProto) -> tuple[Place, ...]:
    """Every match in the graph, in graph order."""
    produced, types = dataflow.producers(graph), dataflow.element_types(graph)
    return tuple(
        Place(found.output, found.nodes)
        for found in attention.find(graph, produced)
        if {types.get(tensor) for tensor in (found.query, found.keys, found.values)} <= _HALF
        and all(
            attention.is_rotated(tensor, produced) or attention.is_rotated_after_prefix(tensor, produced)
            for tensor in (found.query, found.keys)
        )
    )
