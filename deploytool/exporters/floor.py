"""Fits a graph to the oldest runtimes that have to read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from deploytool import runtimes
from deploytool.errors import StageFailed
from deploytool.rewrites.graph import weights

_STANDARD = ("", "ai.onnx")


def fit(model: onnx.ModelProto, floor: Mapping[str, str]) -> onnx.ModelProto:
    """The graph in an IR version that every runtime of `floor` (its oldest version by name) reads.

    Its opset has been chosen at the export, or was reached by the version converter. Raises StageFailed if it is too
    new all the same, with the operator that the older opset does not have.
    """
    for runtime, version in floor.items():
        limit = runtimes.newest(runtime, version)
        if limit is None:
            continue
        reader = f"{runtimes.TITLES[runtime]} {version}"
        _check_opset(model, limit.opset, reader)
        if model.ir_version > limit.ir_version:
            model = _with_ir_version(model, limit.ir_version, reader)
    return model


def _check_opset(model: onnx.ModelProto, opset: int, reader: str) -> None:
    has = max((int(entry.version) for entry in model.opset_import if entry.domain in _STANDARD), default=1)
    if has <= opset:
        return
    remedy = f"raise --floor, or replace the operator: {reader} reads opsets up to {opset}"
    for node in _nodes(model.graph):
        if node.domain in _STANDARD and not onnx.defs.has(node.op_type, opset):
            raise StageFailed(f"opset {opset} has no operator {node.op_type}, which node {node.name!r} uses", remedy)
    raise StageFailed(f"the graph has opset {has}, and cannot be converted to opset {opset}", remedy)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs in their attributes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _with_ir_version(model: onnx.ModelProto, ir_version: int, reader: str) -> onnx.ModelProto:
    """The same graph with an older IR version, without what that version does not have."""
    older = onnx.ModelProto()
    older.CopyFrom(model)
    older.ir_version = ir_version
    try:
        weights.check(older)
    except onnx.checker.ValidationError as error:
        problem = f"the graph needs IR version {model.ir_version}: {' '.join(str(error).split())[:160]}"
        raise StageFailed(problem, f"raise --floor: {reader} reads IR versions up to {ir_version}") from error
    return older
