"""Fills channels up to whole blocks where they are pooled.

ONNX Runtime pools whole blocks in its blocked layout, and leaves that for others. The convolution makes further
channels with weights of zero. What is done to each channel by itself does not touch the others, and a pointwise
convolution reads the further ones with zeros. For anything else a pointwise convolution whose weights are the identity,
and zeros, takes out the channels that were there before; as late as it can, for pictures only grow smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.forms import Outcome
from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.channel_partition import BLOCK
from deploytool.rewrites.graph.convolution import Convolution, take
from deploytool.rewrites.graph.editable import Array, EditableGraph
from deploytool.rewrites.graph.shuffle_chains import carry, keeps_channels, padded


def apply(draft: EditableGraph) -> Outcome:
    """Fills up what every MaxPool reads that a convolution makes for it."""
    fired, passed = list[str](), list[str]()
    for pool in [node for node in draft.nodes if node.op_type == "MaxPool"]:
        found = _source(draft, pool)
        if isinstance(found, str):
            passed.append(f"{pool.name}: {found}")
        else:
            fired.append(_fill(draft, *found))
    return Outcome(tuple(fired), tuple(passed) if fired or passed else ("no MaxPool is left",))


def _source(draft: EditableGraph, pool: NodeProto) -> tuple[Convolution, list[NodeProto]] | str:
    """The convolution that makes what is pooled and the nodes from there to the pool, or why it stays as it is."""
    nodes, tensor = [pool], pool.input[0]
    while (node := draft.maker(tensor)) is not None and draft.only_reader(tensor) is not None:
        if not keeps_channels(draft, node):
            conv = convolution.read(draft, node)
            if conv is None or conv.group > 1:
                break
            if conv.outputs % BLOCK == 0:
                return f"its channels fill blocks of {BLOCK}"
            return "its result leaves the graph" if pool.output[0] in draft.outputs else (conv, nodes)
        nodes.insert(0, node)
        tensor = node.input[0]
    return "what it pools does not come from an ungrouped convolution alone"


def _fill(draft: EditableGraph, conv: Convolution, nodes: Sequence[NodeProto]) -> str:
    """The name of the convolution that fills the blocks."""
    layout = padded([range(conv.outputs)], BLOCK)
    wide = replace(conv, weight=take(conv.weight, layout), bias=take(conv.bias, layout))
    old, new = [conv.node, *nodes], [convolution.write(draft, wide, conv.source)]
    first = new[0].name
    new += carry(draft, nodes, new[0].output[0], layout)
    pooled = new[-1].output[0]
    for reader in draft.readers(nodes[-1].output[0]):
        late = _late(draft, reader)
        last = late[-1] if late else nodes[-1]
        after = convolution.read(draft, draft.only_reader(last.output[0]) if late else reader)
        new += carry(draft, late, pooled, layout)
        source = new[-1].output[0] if late else pooled
        old += late
        if after and after.group == 1:
            reading = replace(after, weight=take(after.weight, layout, 1))
            old.append(after.node)
            new.append(convolution.write(draft, reading, source, after.result))
        else:  # the same for all that read the pool itself: one of them is kept
            new.append(convolution.write(draft, _taking(last, conv, layout), source, last.output[0]))
    draft.replace(old, new)
    return first


def _late(draft: EditableGraph, reader: NodeProto | None) -> list[NodeProto]:
    """The nodes from a reader of the pool on that work channel by channel, each alone with what the one before made."""
    late = list[NodeProto]()
    while reader is not None and keeps_channels(draft, reader):
        late.append(reader)
        reader = draft.only_reader(reader.output[0])
    return late


def _taking(like: NodeProto, conv: Convolution, layout: Array) -> Convolution:
    """The pointwise convolution that takes out the channels that were there before."""
    weight = take(np.eye(conv.outputs, dtype=conv.weight.dtype), layout, 1)[:, :, None, None]
    return Convolution(like, weight, np.zeros(conv.outputs, conv.weight.dtype))
