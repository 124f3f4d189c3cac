"""Computes tensors inside a graph on data, a few cases at a time: what they take together is what one case takes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, ValueInfoProto

from deploytool.backends import onnxruntime
from deploytool.backends.session import Array
from deploytool.errors import BadInput
from deploytool.rewrites.graph import storage, weights

Batches = Iterable[Mapping[str, Array]]


def load(graph: ModelProto | Path) -> ModelProto:
    """The graph itself, or the one in a file."""
    return storage.load(graph) if isinstance(graph, Path) else graph


def run(
    graph: ModelProto, tensors: Collection[str], batches: Batches, *, optimise: bool = True
) -> Iterator[dict[str, Array]]:
    """The tensors by name, for each case of the batches or for as many at a time as the graph fixes.

    A fixed batch that is not full is filled up with cases of the same batch. With `optimise`, ONNX Runtime may fuse
    what lies between the tensors; without it a QDQ graph is computed node by node, as quantised.
    Raises BadInput for a tensor that the graph does not have, StageFailed if ONNX Runtime cannot run the graph.
    """
    parts = weights.session_parts(_with_outputs(graph, tensors))
    fed = {value.name for value in graph.graph.input}
    size = _fixed_batch(graph)
    with onnxruntime.start(
        parts.message, weights=parts.arrays, folder=parts.folder, optimise=optimise, batch_first=False
    ) as session:
        del parts
        for batch in batches:
            cases = len(next(iter(batch.values())))
            for start in range(0, cases, size):
                rows = np.arange(start, start + size) % cases
                inputs = {name: array[rows] for name, array in batch.items() if name in fed}
                found = {**inputs, **session(**inputs)}
                yield {name: found[name] for name in tensors}


def _with_outputs(graph: ModelProto, tensors: Collection[str]) -> ModelProto:
    """The graph with the tensors as its outputs; its own outputs remain if none of the tensors is computed."""
    computed = {name for node in graph.graph.node for name in node.output}
    known = computed | {value.name for value in graph.graph.input}
    if missing := sorted(set(tensors) - known):
        problem = f"the graph has no tensor {missing[0]}"
        raise BadInput(problem, "take the names from the graph that the data is for")
    wanted = [name for name in dict.fromkeys(tensors) if name in computed]
    declared = {value.name: value for value in graph.graph.output}
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    if wanted:
        del opened.graph.output[:]
        opened.graph.output.extend(declared.get(name, ValueInfoProto(name=name)) for name in wanted)
    return opened


def _fixed_batch(graph: ModelProto) -> int:
    """The batch size that the graph fixes; 1 if it takes any."""
    held = {weight.name for weight in graph.graph.initializer}
    shapes = [value.type.tensor_type.shape.dim for value in graph.graph.input if value.name not in held]
    return max(1, shapes[0][0].dim_value) if shapes and len(shapes[0]) else 1
