"""Splits tensors by channel into separate parts where a Split, a Concat, zero weights or the tensor's size call for it.

A convolution between partitioned tensors is a block matrix: part i of the output is the sum over all j of block (i, j)
applied to part j of the input. Blocks of zeros, which come from merging the convolutions of a Split, contribute nothing
and are left out. The nodes in between work channel by channel, and so part by part; a depthwise convolution uses in
each part the smallest window that contains its kernels. Each part is padded to whole blocks with channels of zero
weights (see `channel_partition`). An Add after such a sum becomes its first term, because ONNX Runtime fuses an Add
into each convolution. The result needs no Split and few Concats, keeps each part in the cache between its producer and
its consumer, and uses no window larger than its kernels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.channel_partition import Layout, partitions
from deploytool.rewrites.graph.convolution import Convolution, take_channels
from deploytool.rewrites.graph.coupled_channels import coupled_tensors, find
from deploytool.rewrites.graph.editable import EditableGraph, attributes


def apply(graph: EditableGraph) -> Outcome:
    """Partitions all coupled channels for which `partitions` finds a layout."""
    groups = find(graph)
    layouts = partitions(graph, groups)
    if not layouts:
        return Outcome((), ("no channels can be partitioned",))
    writer = _PartWriter(graph, {tensor: layouts[group] for tensor, group in groups.items() if group in layouts})
    old = [node for node in graph.nodes if writer.is_affected(node)]
    adds = {id(conv): add for add in old if (conv := writer.fused_convolution(add))}
    fused = {id(add): conv for conv in old if (add := adds.get(id(conv)))}
    for node in old:
        if id(node) not in adds:  # a convolution before an Add is written with it, once the other operand exists
            writer.write(fused.get(id(node), node), adds.get(id(fused.get(id(node)))))
    graph.replace(old, writer.new)
    return Outcome(tuple(writer.applied))


@dataclass
class _PartWriter:
    """Writes the nodes of a partitioned graph; `parts` holds the part tensors of each tensor written so far."""

    graph: EditableGraph
    layouts: Mapping[str, Layout]
    new: list[NodeProto] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    parts: dict[str, list[str]] = field(default_factory=dict)

    def is_affected(self, node: NodeProto) -> bool:
        """Whether a node produces or reads a partitioned tensor."""
        return any(tensor in self.layouts for tensor in (*node.input, *node.output))

    def fused_convolution(self, add: NodeProto) -> NodeProto | None:
        """The channel-mixing convolution whose only consumer is an Add; None for any other node."""
        shapes = {self.graph.shape(tensor) for tensor in add.input}
        for tensor in add.input if add.op_type == "Add" and len(shapes) == 1 else ():
            conv = convolution.read(self.graph, self.graph.producer(tensor))
            if conv and not conv.is_depthwise() and self.graph.only_consumer(tensor) is not None:
                return conv.node
        return None

    def write(self, node: NodeProto, add: NodeProto | None) -> None:
        """Writes the parts of a node's output, and of the Add after it."""
        conv = convolution.read(self.graph, node)
        if conv and not conv.is_depthwise():
            self._write_mixing(conv, add)
            return
        tensors, layout = coupled_tensors(self.graph, node), self.layouts[node.output[0]]
        for index, channels in enumerate(layout):
            inputs = [self.parts[tensor][index] for tensor in tensors[:-1]]
            if conv:
                weight, bias = take_channels(conv.weight, channels), take_channels(conv.bias, channels)
                part = replace(conv, weight=weight, bias=bias, group=len(channels))
                self._append(node, convolution.write(self.graph, convolution.crop(part), inputs[0]))
                self.applied.append(self.new[-1].name)
            else:
                inputs += node.input[len(inputs) :]
                self._append(node, self.graph.make_node(node.op_type, node, inputs, **attributes(node)))

    def _append(self, node: NodeProto, part: NodeProto) -> None:
        """Adds the node of one part and records its output as a part of the original output."""
        self.new.append(part)
        self.parts.setdefault(node.output[0], []).append(part.output[0])

    def _write_mixing(self, conv: Convolution, add: NodeProto | None) -> None:
        """Writes a convolution that mixes channels, with its output, its input or both partitioned."""
        result = add.output[0] if add is not None else conv.output
        operands = [tensor for tensor in add.input if tensor != conv.output] if add is not None else []
        first_terms = self.parts[operands[0]] if operands else []
        columns = self.layouts.get(conv.input, (np.arange(conv.in_channels),))
        sources = self.parts.get(conv.input, [conv.input])
        rows = self.layouts.get(result, (np.arange(conv.out_channels),))
        if len(sources) > 1 and self._is_better_joined(conv, rows, columns):
            self.new.append(self.graph.make_node("Concat", conv.node, sources, axis=1))
            sources, columns = [self.new[-1].output[0]], (np.concatenate(columns),)
        for index, channels in enumerate(rows):
            part = replace(conv, weight=take_channels(conv.weight, channels), bias=take_channels(conv.bias, channels))
            output = "" if result in self.layouts else result
            self._write_sum(part, sources, columns, first_terms[index] if first_terms else "", output)
            self.parts.setdefault(result, []).append(self.new[-1].output[0])
        self.applied.append(self.new[-1].name)

    def _is_better_joined(self, conv: Convolution, rows: Layout, columns: Layout) -> bool:
        """Whether to concatenate the input first: it is a mean, or smaller than the output with no zero block."""
        if (self.graph.shape(conv.input) or ())[2:] == (1, 1):
            return True
        blocks = [
            take_channels(take_channels(conv.weight, output_part), input_part, 1)
            for output_part in rows
            for input_part in columns
        ]
        return conv.out_channels > conv.in_channels and all(block.any() for block in blocks)

    def _write_sum(
        self, part: Convolution, sources: Sequence[str], columns: Layout, first_term: str, output: str
    ) -> None:
        """Writes one output part: `first_term` (if not empty) plus a convolution of each input part it reads."""
        blocks = [
            (source, take_channels(part.weight, channels, 1)) for source, channels in zip(sources, columns, strict=True)
        ]
        blocks = [block for block in blocks if block[1].any()] or blocks[:1]
        total, bias = first_term, part.bias
        for source, weight in blocks:
            name = output if weight is blocks[-1][1] else ""
            term = replace(part, weight=weight, bias=bias)
            self.new.append(convolution.write(self.graph, term, source, "" if total else name))
            if total:
                operands = [total, self.new[-1].output[0]]
                self.new.append(self.graph.make_node("Add", part.node, operands, name))
            total, bias = self.new[-1].output[0], np.zeros_like(bias)
