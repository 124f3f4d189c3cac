"""The fan: several convolutions side by side, on the slices of one tensor or on all of it, and laid together again."""

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

    Each is a convolution and what is done to every value of its result, the same in all (`tails`). With a `split` each
    reads its own slice of a tensor, in the same order; without, all read the same tensor.
    """

    split: NodeProto | None
    branches: tuple[Convolution, ...]
    tails: tuple[tuple[NodeProto, ...], ...]
    concat: NodeProto

    @property
    def source(self) -> str:
        """The tensor that all branches come from."""
        return self.split.input[0] if self.split else self.branches[0].source

    def splits(self, kind: Callable[[Convolution], bool]) -> bool:
        """Whether each branch has a slice of its own, and all are of a kind."""
        return self.split is not None and all(map(kind, self.branches))

    @property
    def nodes(self) -> list[NodeProto]:
        """All nodes of the fan."""
        inner = [conv.node for conv in self.branches] + [node for tail in self.tails for node in tail]
        return [*([self.split] if self.split else []), *inner, self.concat]


def is_unary(draft: EditableGraph, node: NodeProto) -> bool:
    """Whether a node changes each value by itself, the same way everywhere."""
    return node.op_type in UNARY and all(draft.constant(each) is not None for each in node.input[1:] if each)


def joins_channels(draft: EditableGraph, node: NodeProto) -> bool:
    """Whether a node lays tensors of four dimensions side by side, channel after channel."""
    if node.op_type != "Concat":
        return False
    axis, shape = attributes(node)["axis"], draft.shape(node.output[0])
    return axis == 1 or (shape is not None and axis + len(shape) == 1)


def find(draft: EditableGraph) -> Iterator[ParallelBranches | str]:
    """Every fan of a graph; for a Concat that looks like the end of one and is none, a line that says why."""
    for node in list(draft.nodes):
        if joins_channels(draft, node) and len(node.input) > 1:
            found = _fan(draft, node)
            if found is not None:
                yield found


def _fan(draft: EditableGraph, concat: NodeProto) -> ParallelBranches | str | None:
    walked = [_branch(draft, tensor) for tensor in concat.input]
    branches = [each for each in walked if each is not None]
    if len(branches) < 2:
        return None
    if len(branches) < len(walked):
        return f"{concat.name}: a branch is no convolution that only it reads"
    convs, tails = tuple(conv for conv, _ in branches), tuple(tail for _, tail in branches)
    if len({_words(draft, tail) for tail in tails}) > 1:
        return f"{concat.name}: the branches end differently"
    if len({conv.source for conv in convs}) == 1:
        return ParallelBranches(None, convs, tails, concat)
    split = draft.maker(convs[0].source)
    if split is None or split.op_type != "Split" or attributes(split).get("axis", 0) != 1:
        return f"{concat.name}: the branches have different sources"
    if [conv.source for conv in convs] != list(split.output):
        return f"{concat.name}: the branches are not the slices of {split.name} in their order"
    if any(draft.only_reader(tensor) is None for tensor in split.output):
        return f"{concat.name}: a slice of {split.name} has other readers too"
    return ParallelBranches(split, convs, tails, concat)


def _branch(draft: EditableGraph, tensor: str) -> tuple[Convolution, tuple[NodeProto, ...]] | None:
    """The convolution that a tensor comes from, and the nodes between, if nobody else reads anything of it."""
    tail: list[NodeProto] = []
    while draft.only_reader(tensor) is not None and (node := draft.maker(tensor)) is not None:
        if is_unary(draft, node):
            tail.insert(0, node)
            tensor = node.input[0]
            continue
        conv = convolution.read(draft, node)
        return (conv, tuple(tail)) if conv else None
    return None


def _words(draft: EditableGraph, tail: tuple[NodeProto, ...]) -> str:
    """What a tail does, in words that are the same for all that do the same."""
    limits = [[np.asarray(draft.constant(each)).tolist() for each in node.input[1:] if each] for node in tail]
    return repr([(node.op_type, sorted(attributes(node).items())) for node in tail]) + repr(limits)


def close(draft: EditableGraph, fan: ParallelBranches, merged: Convolution | str) -> list[str] | str:
    """Puts one convolution in the place of a fan, behind it what was done to each branch; the convolution's name.

    Why there is no such convolution is given back as it is.
    """
    if isinstance(merged, str):
        return merged
    conv = convolution.write(draft, merged, fan.source, joined(fan), fan.concat)
    draft.replace(fan.nodes, [conv, *tail(draft, fan, conv)])
    return [conv.name]


def joined(fan: ParallelBranches) -> str:
    """The name of what the branches make together: the Concat's own, which keeps its values, unless a tail follows."""
    return "" if fan.tails[0] else str(fan.concat.output[0])


def tail(draft: EditableGraph, fan: ParallelBranches, before: NodeProto) -> list[NodeProto]:
    """What was done to each branch, done once to what a node has made of them all."""
    new, nodes = [before], fan.tails[0]
    for node in nodes:
        makes = fan.concat.output[0] if node is nodes[-1] else ""
        reads = [new[-1].output[0], *node.input[1:]]
        # called after the fan, for it stands for the ends of all branches
        new.append(draft.node(node.op_type, fan.concat, reads, makes, **attributes(node)))
    return new[1:]
