"""Finds parallel branches: convolutions on slices of one tensor, or on all of it, whose results are concatenated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution
from deploytool.rewrites.graph.editable import EditableGraph, attributes

UNARY = ("Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Softplus", "Gelu", "Mish", "Clip")


@dataclass(frozen=True)
class ParallelBranches:
    """The branches of a Concat over channels, in its order.

    Each branch is a convolution followed by elementwise nodes, which are the same in all branches (`tails`). With a
    `split` each branch reads its own slice of a tensor, in the same order; without one, all read the same tensor.
    """

    split: NodeProto | None
    branches: tuple[Convolution, ...]
    tails: tuple[tuple[NodeProto, ...], ...]
    concat: NodeProto

    @property
    def input(self) -> str:
        """The tensor that all branches start from."""
        return self.split.input[0] if self.split else self.branches[0].input

    def splits(self, predicate: Callable[[Convolution], bool]) -> bool:
        """Whether each branch reads its own slice and all convolutions satisfy the predicate."""
        return self.split is not None and all(map(predicate, self.branches))

    @property
    def nodes(self) -> list[NodeProto]:
        """All nodes from the Split, if there is one, to the Concat."""
        inner = [conv.node for conv in self.branches] + [node for tail in self.tails for node in tail]
        return [*([self.split] if self.split else []), *inner, self.concat]


def is_unary(graph: EditableGraph, node: NodeProto) -> bool:
    """Whether a node applies one function to every element separately."""
    return node.op_type in UNARY and all(graph.constant(name) is not None for name in node.input[1:] if name)


def joins_channels(graph: EditableGraph, node: NodeProto) -> bool:
    """Whether a node concatenates four-dimensional tensors along their channels."""
    if node.op_type != "Concat":
        return False
    axis, shape = attributes(node)["axis"], graph.shape(node.output[0])
    return axis == 1 or (shape is not None and axis + len(shape) == 1)


def find(graph: EditableGraph) -> Iterator[ParallelBranches | str]:
    """All parallel branches of a graph, and a reason for each Concat of convolutions that does not end any."""
    for node in list(graph.nodes):
        if joins_channels(graph, node) and len(node.input) > 1:
            match = _match(graph, node)
            if match is not None:
                yield match


def _match(graph: EditableGraph, concat: NodeProto) -> ParallelBranches | str | None:
    """The parallel branches that end in a Concat, why there are none, or None if fewer than two are convolutions."""
    candidates = [_branch(graph, tensor) for tensor in concat.input]
    branches = [branch for branch in candidates if branch is not None]
    if len(branches) < 2:
        return None
    if len(branches) < len(candidates):
        return f"{concat.name}: a branch is not a convolution without other consumers"
    convs, tails = tuple(conv for conv, _ in branches), tuple(tail for _, tail in branches)
    if len({_signature(graph, tail) for tail in tails}) > 1:
        return f"{concat.name}: the branches end in different nodes"
    if len({conv.input for conv in convs}) == 1:
        return ParallelBranches(None, convs, tails, concat)
    split = graph.producer(convs[0].input)
    if split is None or split.op_type != "Split" or attributes(split).get("axis", 0) != 1:
        return f"{concat.name}: the branches have different sources"
    if [conv.input for conv in convs] != list(split.output):
        return f"{concat.name}: the branches do not read the slices of {split.name} in order"
    if any(graph.only_consumer(tensor) is None for tensor in split.output):
        return f"{concat.name}: a slice of {split.name} has other consumers"
    return ParallelBranches(split, convs, tails, concat)


def _branch(graph: EditableGraph, tensor: str) -> tuple[Convolution, tuple[NodeProto, ...]] | None:
    """The convolution before a tensor and the unary nodes between; None if a tensor of these has other consumers."""
    tail: list[NodeProto] = []
    while graph.only_consumer(tensor) is not None and (node := graph.producer(tensor)) is not None:
        if is_unary(graph, node):
            tail.insert(0, node)
            tensor = node.input[0]
            continue
        conv = convolution.read(graph, node)
        return (conv, tuple(tail)) if conv else None
    return None


def _signature(graph: EditableGraph, tail: tuple[NodeProto, ...]) -> str:
    """A text that is equal for tails that compute the same function."""
    constants = [[np.asarray(graph.constant(name)).tolist() for name in node.input[1:] if name] for node in tail]
    return repr([(node.op_type, sorted(attributes(node).items())) for node in tail]) + repr(constants)


def merge(graph: EditableGraph, motif: ParallelBranches, merged: Convolution | str) -> list[str] | str:
    """Replaces parallel branches by one convolution and their common tail; returns the convolution's name.

    If `merged` is the reason why there is no such convolution, changes nothing and returns the reason.
    """
    if isinstance(merged, str):
        return merged
    output = "" if motif.tails[0] else str(motif.concat.output[0])  # equal values keep the Concat's tensor name
    conv = convolution.write(graph, merged, motif.input, output, motif.concat)
    graph.replace(motif.nodes, [conv, *_tail_copy(graph, motif, conv)])
    return [conv.name]


def _tail_copy(graph: EditableGraph, motif: ParallelBranches, conv: NodeProto) -> list[NodeProto]:
    """The common tail of the branches, applied once to the output of the merged convolution."""
    new, nodes = [conv], motif.tails[0]
    for node in nodes:
        output = motif.concat.output[0] if node is nodes[-1] else ""
        inputs = [new[-1].output[0], *node.input[1:]]
        # named after the Concat, because it replaces the tails of all branches
        new.append(graph.make_node(node.op_type, motif.concat, inputs, output, **attributes(node)))
    return new[1:]
