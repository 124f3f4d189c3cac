"""Pads the channels of a MaxPool with zeros to whole blocks.

ONNX Runtime pools whole blocks of channels in its blocked layout, and leaves that layout for other channel counts. The
convolution before the pool produces additional channels from zero weights. Nodes that work channel by channel keep them
separate from the others, and a pointwise convolution reads them with zero weights. Before any other consumer, a
pointwise convolution with weights of the identity and zeros removes the additional channels. It is placed as late as
possible, because feature maps shrink along the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.channel_partition import BLOCK
from deploytool.rewrites.graph.convolution import Convolution, take_channels
from deploytool.rewrites.graph.editable import Array, EditableGraph
from deploytool.rewrites.graph.shuffle_chains import copy_nodes, keeps_channels, padded_layout


def apply(graph: EditableGraph) -> Outcome:
    """Pads the input of every MaxPool that an ungrouped convolution produces for it alone."""
    applied, skipped = list[str](), list[str]()
    for pool in [node for node in graph.nodes if node.op_type == "MaxPool"]:
        chain = _chain(graph, pool)
        if isinstance(chain, str):
            skipped.append(f"{pool.name}: {chain}")
        else:
            applied.append(_pad(graph, *chain))
    return Outcome(tuple(applied), tuple(skipped) if applied or skipped else ("no MaxPool is left",))


def _chain(graph: EditableGraph, pool: NodeProto) -> tuple[Convolution, list[NodeProto]] | str:
    """The convolution before a pool and the nodes from there to the pool, or why the pool stays as it is."""
    nodes, tensor = [pool], pool.input[0]
    while (node := graph.producer(tensor)) is not None and graph.only_consumer(tensor) is not None:
        if not keeps_channels(graph, node):
            conv = convolution.read(graph, node)
            if conv is None or conv.group > 1:
                break
            if conv.out_channels % BLOCK == 0:
                return f"its channels fill blocks of {BLOCK}"
            return "its result is an output of the graph" if pool.output[0] in graph.outputs else (conv, nodes)
        nodes.insert(0, node)
        tensor = node.input[0]
    return "its input does not come from an ungrouped convolution alone"


def _pad(graph: EditableGraph, conv: Convolution, nodes: Sequence[NodeProto]) -> str:
    """Pads the channels from the convolution on; returns the name of its new node."""
    layout = padded_layout([range(conv.out_channels)], BLOCK)
    padded = replace(conv, weight=take_channels(conv.weight, layout), bias=take_channels(conv.bias, layout))
    old, new = [conv.node, *nodes], [convolution.write(graph, padded, conv.input)]
    first_name = new[0].name
    new += copy_nodes(graph, nodes, new[0].output[0], layout)
    pooled = new[-1].output[0]
    for consumer in graph.consumers(nodes[-1].output[0]):
        chain = _channelwise_chain(graph, consumer)
        last = chain[-1] if chain else nodes[-1]
        after = convolution.read(graph, graph.only_consumer(last.output[0]) if chain else consumer)
        new += copy_nodes(graph, chain, pooled, layout)
        source = new[-1].output[0] if chain else pooled
        old += chain
        if after and after.group == 1:
            widened = replace(after, weight=take_channels(after.weight, layout, 1))
            old.append(after.node)
            new.append(convolution.write(graph, widened, source, after.output))
        else:  # consumers of the pool itself all get the same node; `to_model` keeps one of them
            new.append(convolution.write(graph, _unpadding(last, conv, layout), source, last.output[0]))
    graph.replace(old, new)
    return first_name


def _channelwise_chain(graph: EditableGraph, consumer: NodeProto | None) -> list[NodeProto]:
    """The longest chain of channel-by-channel nodes from a consumer on, each the only consumer of the one before."""
    chain = list[NodeProto]()
    while consumer is not None and keeps_channels(graph, consumer):
        chain.append(consumer)
        consumer = graph.only_consumer(consumer.output[0])
    return chain


def _unpadding(like: NodeProto, conv: Convolution, layout: Array) -> Convolution:
    """The pointwise convolution that removes the padding channels."""
    weight = take_channels(np.eye(conv.out_channels, dtype=conv.weight.dtype), layout, 1)[:, :, None, None]
    return Convolution(like, weight, np.zeros(conv.out_channels, conv.weight.dtype))
