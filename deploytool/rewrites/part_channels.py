"""Keeps channels in parts where a Split, a Concat, zeros among the weights or their sheer number ask for it.

A convolution from parts of channels to parts of channels is a block matrix: part i of the result is the sum over all j
of block (i, j) applied to part j of the source. Blocks of zeros, which is what the convolutions of a split become when
they are merged, add nothing and are left out. Everything between works channel by channel, and so part by part; a
depthwise convolution takes in each part the smallest window that holds its kernels. A part is filled up to whole blocks
with channels that have zeros for weights and are read with zeros (see `layouts`). An Add behind such a sum becomes the
first of what is summed up: ONNX Runtime adds within each convolution. Nothing is split and little laid together, parts
stay in the cache from the node that makes them to the one that reads them, and no window is larger than its kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.channel_partition import Layout, partitions
from deploytool.rewrites.graph.convolution import Convolution, take
from deploytool.rewrites.graph.coupled_channels import find, ties
from deploytool.rewrites.graph.editable import EditableGraph, attributes


def apply(draft: EditableGraph) -> Outcome:
    """Parts every space of channels, if there is one that falls into parts."""
    homes = find(draft)
    plan = partitions(draft, homes)
    if not plan:
        return Outcome((), ("no channels fall into parts",))
    laid = _Laid(draft, {tensor: plan[home] for tensor, home in homes.items() if home in plan})
    old = [node for node in draft.nodes if laid.concerns(node)]
    adds = {id(conv): add for add in old if (conv := laid.first_of(add))}
    first = {id(add): conv for conv in old if (add := adds.get(id(conv)))}
    for node in old:
        if id(node) not in adds:  # else its Add is waited for, whose other side is made by then
            laid.write(first.get(id(node), node), adds.get(id(first.get(id(node)))))
    draft.replace(old, laid.new)
    return Outcome(tuple(laid.fired))


@dataclass
class _Laid:
    """The parts that each tensor has become, and the nodes that make them."""

    draft: EditableGraph
    layout: Mapping[str, Layout]
    new: list[NodeProto] = field(default_factory=list)
    fired: list[str] = field(default_factory=list)
    made: dict[str, list[str]] = field(default_factory=dict)

    def concerns(self, node: NodeProto) -> bool:
        """Whether a node makes or reads parts."""
        return any(tensor in self.layout for tensor in (*node.input, *node.output))

    def first_of(self, add: NodeProto) -> NodeProto | None:
        """The convolution that mixes channels and that an Add alone reads; None for any other node."""
        shapes = {self.draft.shape(tensor) for tensor in add.input}
        for tensor in add.input if add.op_type == "Add" and len(shapes) == 1 else ():
            conv = convolution.read(self.draft, self.draft.maker(tensor))
            if conv and not conv.is_depthwise() and self.draft.only_reader(tensor) is not None:
                return conv.node
        return None

    def write(self, node: NodeProto, add: NodeProto | None) -> None:
        """Writes the parts of what a node makes, and of the Add behind it."""
        conv = convolution.read(self.draft, node)
        if conv and not conv.is_depthwise():
            self._mix(conv, add)
            return
        tied, parts = ties(self.draft, node), self.layout[node.output[0]]
        for place, rows in enumerate(parts):
            reads = [self.made[tensor][place] for tensor in tied[:-1]]
            if conv:
                part = replace(conv, weight=take(conv.weight, rows), bias=take(conv.bias, rows), group=len(rows))
                self._put(node, convolution.write(self.draft, convolution.cropped(part), reads[0]))
                self.fired.append(self.new[-1].name)
            else:
                reads += node.input[len(reads) :]
                self._put(node, self.draft.node(node.op_type, node, reads, **attributes(node)))

    def _put(self, node: NodeProto, part: NodeProto) -> None:
        """Notes a part of what a node makes."""
        self.new.append(part)
        self.made.setdefault(node.output[0], []).append(part.output[0])

    def _mix(self, conv: Convolution, add: NodeProto | None) -> None:
        """Writes a convolution that mixes channels, in parts of its result, its source or both."""
        result = add.output[0] if add is not None else conv.result
        others = [tensor for tensor in add.input if tensor != conv.result] if add is not None else []
        begins = self.made[others[0]] if others else []
        columns = self.layout.get(conv.source, (np.arange(conv.inputs),))
        sources = self.made.get(conv.source, [conv.source])
        parts = self.layout.get(result, (np.arange(conv.outputs),))
        if len(sources) > 1 and self._is_joined(conv, parts, columns):
            self.new.append(self.draft.node("Concat", conv.node, sources, axis=1))
            sources, columns = [self.new[-1].output[0]], (np.concatenate(columns),)
        for place, rows in enumerate(parts):
            part = replace(conv, weight=take(conv.weight, rows), bias=take(conv.bias, rows))
            makes = "" if result in self.layout else result
            self._sum(part, sources, columns, begins[place] if begins else "", makes)
            self.made.setdefault(result, []).append(self.new[-1].output[0])
        self.fired.append(self.new[-1].name)

    def _is_joined(self, conv: Convolution, parts: Layout, columns: Layout) -> bool:
        """Whether its source is better laid together first: a mean, or what has fewer values than are made of it."""
        if (self.draft.shape(conv.source) or ())[2:] == (1, 1):
            return True
        blocks = [take(take(conv.weight, rows), each, 1) for rows in parts for each in columns]
        return conv.outputs > conv.inputs and all(block.any() for block in blocks)

    def _sum(self, part: Convolution, sources: Sequence[str], columns: Layout, begin: str, makes: str) -> None:
        """Writes one part of a convolution: the sum over the parts that it reads, and what that begins with."""
        blocks = [(source, take(part.weight, each, 1)) for source, each in zip(sources, columns, strict=True)]
        blocks = [block for block in blocks if block[1].any()] or blocks[:1]
        total, bias = begin, part.bias
        for source, weight in blocks:
            last = makes if weight is blocks[-1][1] else ""
            term = replace(part, weight=weight, bias=bias)
            self.new.append(convolution.write(self.draft, term, source, "" if total else last))
            if total:
                reads = [total, self.new[-1].output[0]]
                self.new.append(self.draft.node("Add", part.node, reads, last))
            total, bias = self.new[-1].output[0], np.zeros_like(bias)
