"""Finds attention in which only the tokens after a prefix are rotated: TensorRT computes DINOv3 wrongly.

Reported for DINOv3 ViT-B/16 (NVIDIA/TensorRT#4742, open) with TensorRT 10.4 on an RTX A6000 (compute capability 8.6):
the cosine similarity of the FP32 engine is 0.018, and in FP16 it answers NaN. A lower optimization level, other tactics
and FP32 layers did not help. The report does not say which node is wrong, or which later release is right.

The pattern is what sets DINOv3 apart from other ViTs: an attention whose query and keys are each a Concat of tokens cut
off before (the class token and the registers) and of tokens with rotary position embeddings. So it matches DINOv3, not
ViT and DINOv2 (no rotation), and not SAM 3 and Llama (every token is rotated).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploytool.known_issues import attention, dataflow
from deploytool.known_issues.place import AffectedReleases, Place

if TYPE_CHECKING:
    import onnx

ISSUE = "NVIDIA/TensorRT#4742"
AFFECTED: tuple[AffectedReleases, ...] = (
    AffectedReleases("tensorrt", since="10.4", fixed_in=None, capabilities=("8.6",)),
)
WORKAROUND: str | None = None
MOST_PROBES: int | None = 4


def find(graph: onnx.GraphProto) -> tuple[Place, ...]:
    """Every match in the graph, in graph order."""
    produced = dataflow.producers(graph)
    return tuple(
        Place(found.output, found.nodes)
        for found in attention.find(graph, produced)
        if all(attention.is_rotated_after_prefix(tensor, produced) for tensor in (found.query, found.keys))
    )
