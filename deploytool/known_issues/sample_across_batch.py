"""Finds deformable attention by GridSample: TensorRT mixes the images of a batch, or finds wrong boxes at batch 1.

Reported for D-FINE in FP32 (NVIDIA/TensorRT#4813, open) with TensorRT 11.1 on an RTX 5070 Ti, and in comments for
TensorRT 10.14 on compute capability 8.6 (DEIMv2). Compute capability 8.9 is taken from a survey of the thread and was
not read there. A comment reports TensorRT 10.13.3 with a dynamic batch too, without a GPU that could be read; with a
fixed batch of 1 that release was right. Four equal images in one batch had four different answers.

The pattern is a ReduceSum of a product: one factor is computed from one or more GridSample nodes by operators that only
move data, the other one from a Softmax. So it matches the decoders of Deformable DETR, RT-DETR and D-FINE, not a
GridSample that warps an image, an average of samples without attention weights, or sampling by Gather.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploytool.known_issues import dataflow
from deploytool.known_issues.dataflow import LAYOUT, Producers
from deploytool.known_issues.place import AffectedReleases, Place

if TYPE_CHECKING:
    import onnx

ISSUE = "NVIDIA/TensorRT#4813"
AFFECTED: tuple[AffectedReleases, ...] = (
    AffectedReleases("tensorrt", since="11.1", fixed_in=None, capabilities=("8.9", "12.0")),
    AffectedReleases("tensorrt", since="10.14", fixed_in=None, capabilities=("8.6",)),
)
WORKAROUND: str | None = "export the sampling with Gather, or use TensorRT's plugin MultiscaleDeformableAttnPlugin_TRT"
MOST_PROBES: int | None = 4


def find(graph: onnx.GraphProto) -> tuple[Place, ...]:
    """Every match in the graph, in graph order."""
    produced, readers = dataflow.producers(graph), dataflow.consumers(graph)
    places = []
    for total in graph.node:
        if total.op_type != "ReduceSum":
            continue
        product = dataflow.trace(total.input[0], produced, {"Cast", "Identity"}).only_end
        if product is None or product.op_type != "Mul":
            continue
        for samples, weights in (tuple(product.input), tuple(reversed(product.input))):
            sampler = _only(samples, "GridSample", produced)
            if sampler is not None and _only(weights, "Softmax", produced) is not None:
                output = dataflow.settled(total.output[0], produced, readers)
                places.append(Place(output, (sampler.name, total.name)))
                break
    return tuple(places)


def _only(tensor: str, operator: str, produced: Producers) -> onnx.NodeProto | None:
    """The first of the nodes that a tensor is moved from, if all of them have that operator."""
    trace = dataflow.trace(tensor, produced, LAYOUT)
    alike = bool(trace.ends) and not trace.inputs and all(node.op_type == operator for node in trace.ends)
    return min(trace.ends, key=lambda node: node.name) if alike else None
