"""Takes out the Split before a MixConv: each of its depthwise convolutions gets an earlier convolution of its own.

The rows of a convolution's weights each make one channel, and work on each value by itself is the same on a part as on
the whole. So the Split moves up, past the convolution that makes its source, and is gone. A depthwise convolution makes
channel c from channel c alone, so a part may begin at any channel; it begins at a multiple of 16, the block in which
ONNX Runtime keeps channels on AVX-512, for what does not fill blocks is computed much slower. The kernel of a channel
that so comes to its neighbours goes among zeros where theirs are larger (see `convolution.window`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from onnx import NodeProto

from deploytool.graphs import convolution
from deploytool.graphs.convolution import Convolution
from deploytool.graphs.draft import Draft, attributes
from deploytool.graphs.fans import Fan, is_unary, joined, tail
from deploytool.rewrites import Outcome, of_fans

_BLOCK = 16


@dataclass(frozen=True)
class _Source:
    """The convolution that makes what is split, and the nodes between, which work on each value by itself."""

    first: Convolution
    between: tuple[NodeProto, ...]


def apply(draft: Draft) -> Outcome:
    """Takes out every Split between a convolution and depthwise ones of several sizes."""
    lacking = "no Split ends in depthwise convolutions"
    return of_fans(draft, lambda fan: fan.splits(Convolution.is_depthwise), lambda fan: _part(draft, fan), lacking)


def _source(draft: Draft, fan: Fan) -> _Source | None:
    """Where the slices come from, if parts of it can be made one by one."""
    between: list[NodeProto] = []
    split = draft.only_reader(fan.source)
    tensor, readers = fan.source, [split] if split is not None else []
    while readers and _read_by(draft, tensor, readers) and (node := draft.maker(tensor)) is not None:
        if first := convolution.read(draft, node):
            return _Source(first, tuple(between)) if first.group == 1 else None
        readers = _step(draft, node)
        between[:0] = readers
        tensor = readers[0].input[0] if readers else ""
    return None


def _read_by(draft: Draft, tensor: str, readers: list[NodeProto]) -> bool:
    """Whether these nodes read a tensor, and nobody else."""
    found = {id(node) for node in draft.readers(tensor)}
    return tensor not in draft.outputs and found == {id(node) for node in readers}


def _step(draft: Draft, node: NodeProto) -> list[NodeProto]:
    """The node, with the one that makes its gate if it is a Mul of x and of a function of x; else nothing."""
    if is_unary(draft, node):
        return [node]
    for gate in node.input if node.op_type == "Mul" else ():
        maker = draft.maker(gate)
        if maker is not None and is_unary(draft, maker) and draft.only_reader(gate):
            return [maker, node]  # that both read x, the caller sees
    return []


def _parts(fan: Fan) -> list[Convolution] | str:
    """The depthwise convolutions, begun at multiples of the block, or why there are not two."""
    ends = np.cumsum([conv.outputs for conv in fan.branches])
    cuts = sorted({0, *(ends[:-1] // _BLOCK * _BLOCK).tolist(), int(ends[-1])})
    if len(cuts) < 3:
        return f"it has less than two blocks of {_BLOCK} channels"
    parts = []
    for low, high in pairwise(cuts):
        first, last = np.searchsorted(ends, [low, high - 1], side="right")
        mine = fan.branches[first : last + 1]
        whole = convolution.stack(mine, sum(conv.group for conv in mine))
        if isinstance(whole, str):
            return whole
        begin = int(ends[first]) - mine[0].outputs
        parts.append(convolution.rows(whole, low - begin, high - begin))
    return parts


def _part(draft: Draft, fan: Fan) -> list[str] | str:
    """The names of the depthwise convolutions that the graph now has, or why the Split stays."""
    source, parts = _source(draft, fan), _parts(fan)
    if source is None:
        return "what is split does not come from an ungrouped convolution alone"
    if isinstance(parts, str):
        return parts
    first, begin = source.first, 0
    new: list[NodeProto] = []
    made: list[NodeProto] = []
    for part in parts:
        early = convolution.rows(first, begin, begin + part.outputs)
        begin += part.outputs
        new.append(convolution.write(draft, early, first.source))
        here = {first.result: new[-1].output[0]}
        for node in source.between:
            reads = [here.get(name, name) for name in node.input]
            new.append(draft.node(node.op_type, node, reads, **attributes(node)))
            here[node.output[0]] = new[-1].output[0]
        made.append(convolution.write(draft, part, new[-1].output[0]))
        new.append(made[-1])
    concat = draft.node("Concat", fan.concat, [node.output[0] for node in made], joined(fan), axis=1)
    draft.replace([first.node, *source.between, *fan.nodes], [*new, concat, *tail(draft, fan, concat)])
    return [node.name for node in made]
