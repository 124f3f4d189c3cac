"""Reads convolutions with constant weights from a graph as NumPy arrays, transforms them and writes them as nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.graph.editable import Array, EditableGraph, attributes

Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional convolution.

    `weight` has shape (output channels, input channels of a group, height, width), `bias` (output channels). `pads` are
    top, left, bottom, right.
    """

    node: NodeProto
    weight: Array
    bias: Array
    group: int = 1
    strides: Pair = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: Pair = (1, 1)

    @property
    def input(self) -> str:
        """The tensor it reads."""
        return str(self.node.input[0])

    @property
    def output(self) -> str:
        """The tensor it produces."""
        return str(self.node.output[0])

    @property
    def in_channels(self) -> int:
        """The number of input channels."""
        return int(self.weight.shape[1]) * self.group

    @property
    def out_channels(self) -> int:
        """The number of output channels."""
        return len(self.weight)

    @property
    def kernel(self) -> Pair:
        """Height and width of the kernel."""
        return self.weight.shape[2], self.weight.shape[3]

    def is_depthwise(self) -> bool:
        """Whether every channel has its own convolution with one output channel."""
        return self.group > 1 and self.group == self.in_channels == self.out_channels

    def is_pointwise(self) -> bool:
        """Whether it mixes the channels of each pixel separately (kernel 1×1, stride 1, no padding)."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)


def read(graph: EditableGraph, node: NodeProto | None) -> Convolution | None:
    """The convolution that a node is.

    None for any other node, weights that are not constant, three spatial dimensions, and automatic padding.
    """
    if node is None or node.op_type != "Conv":
        return None
    weight, settings = graph.constant(node.input[1]), attributes(node)
    bias = graph.constant(node.input[2]) if len(node.input) == 3 and node.input[2] else None
    if weight is None or weight.ndim != 4 or (bias is None and len(node.input) == 3 and node.input[2]):
        return None
    if settings.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    return Convolution(
        node,
        weight,
        np.zeros(len(weight), weight.dtype) if bias is None else bias,
        int(settings.get("group", 1)),
        _pair(settings.get("strides", (1, 1))),
        tuple(settings.get("pads", (0, 0, 0, 0))),
        _pair(settings.get("dilations", (1, 1))),
    )


def _pair(values: Sequence[int]) -> Pair:
    return int(values[0]), int(values[1])


def read_all(graph: EditableGraph) -> list[Convolution]:
    """All convolutions of a graph, in order."""
    return [conv for node in graph.nodes if (conv := read(graph, node))]


def write(
    graph: EditableGraph, conv: Convolution, source: str, output: str = "", like: NodeProto | None = None
) -> NodeProto:
    """A node for a convolution that reads `source`, with its weights added to the graph.

    It produces `output`, or a new tensor if that is empty. The node is named after the module of `like`, or else of the
    node that the convolution was read from.
    """
    like = like or conv.node
    stem = like.name.rpartition("/")[0]
    inputs = [source, graph.add_weight(f"{stem}/weight", conv.weight), graph.add_weight(f"{stem}/bias", conv.bias)]
    return graph.make_node(
        "Conv",
        like,
        inputs,
        output,
        dilations=conv.dilations,
        group=conv.group,
        kernel_shape=conv.kernel,
        pads=conv.pads,
        strides=conv.strides,
    )


def dense_weight(conv: Convolution) -> Array:
    """The equivalent weights without groups: (outputs, inputs, height, width), with zeros between groups."""
    dense = np.zeros((conv.out_channels, conv.in_channels, *conv.kernel), conv.weight.dtype)
    height, width = conv.out_channels // conv.group, conv.weight.shape[1]
    for index in range(conv.group):
        rows = slice(index * height, (index + 1) * height)
        dense[rows, index * width : (index + 1) * width] = conv.weight[rows]
    return dense


def take_channels(values: Array, layout: Array, axis: int = 0) -> Array:
    """The channels in the order of `layout`, along `axis`; -1 gives a channel of zeros."""
    taken = np.take(values, np.maximum(layout, 0), axis)
    shape = [1] * values.ndim
    shape[axis] = len(layout)
    return np.where((layout >= 0).reshape(shape), taken, np.zeros((), values.dtype))


@dataclass(frozen=True)
class Window:
    """The smallest window that contains the windows of several convolutions, each at its offset (row, column)."""

    kernel: Pair
    pads: tuple[int, int, int, int]
    offsets: tuple[Pair, ...]

    def embed(self, conv: Convolution, offset: Pair) -> Array:
        """The weights of one convolution, spread by its dilation, at an offset in a window of zeros."""
        height, width = ((size - 1) * step + 1 for size, step in zip(conv.kernel, conv.dilations, strict=True))
        weight = np.zeros((*conv.weight.shape[:2], *self.kernel), conv.weight.dtype)
        rows = slice(offset[0], offset[0] + height, conv.dilations[0])
        columns = slice(offset[1], offset[1] + width, conv.dilations[1])
        weight[:, :, rows, columns] = conv.weight
        return weight


def window(convs: Sequence[Convolution]) -> Window | str:
    """The window that contains all of theirs, or why there is none.

    A window of size k with padding p computes the sum over j of w[j] x[i s + j - p]. At offset P - p of a wider window
    with padding P it computes the same. The outputs have equal sizes if the padding of both ends minus the size of the
    window is equal.
    """
    if len({conv.strides for conv in convs}) > 1:
        return "the strides differ"
    axes = []
    for axis in range(2):
        begins = [conv.pads[axis] for conv in convs]
        spans = [(conv.kernel[axis] - 1) * conv.dilations[axis] + 1 for conv in convs]
        slacks = {conv.pads[axis] + conv.pads[axis + 2] - span for conv, span in zip(convs, spans, strict=True)}
        if len(slacks) > 1:
            return "the paddings lead to outputs of different sizes"
        first = max(begins)
        offsets = [first - begin for begin in begins]
        size = max(offset + span for offset, span in zip(offsets, spans, strict=True))
        axes.append((size, first, slacks.pop() - first + size, offsets))
    rows, columns = axes
    pads = (rows[1], columns[1], rows[2], columns[2])
    if min(pads) < 0:
        return "the padding would be negative"
    return Window((rows[0], columns[0]), pads, tuple(zip(rows[3], columns[3], strict=True)))


def stack(convs: Sequence[Convolution], group: int) -> Convolution | str:
    """One convolution with `group` groups whose output is the concatenation of theirs, or why there is none."""
    common = window(convs)
    if isinstance(common, str):
        return common
    return replace(
        convs[0],
        weight=np.concatenate([common.embed(conv, at) for conv, at in zip(convs, common.offsets, strict=True)]),
        bias=np.concatenate([conv.bias for conv in convs]),
        group=group,
        pads=common.pads,
        dilations=(1, 1),
    )


def crop(conv: Convolution) -> Convolution:
    """The convolution without the edges of its window that are zero in all channels, as far as its padding allows."""
    pads, kept = [], []
    for axis in range(2):
        used = np.flatnonzero(conv.weight.any((0, 1, 3 - axis)))
        size, step = conv.kernel[axis], conv.dilations[axis]
        first, last = (int(used[0]), size - 1 - int(used[-1])) if len(used) else (0, 0)
        first, last = min(first, conv.pads[axis] // step), min(last, conv.pads[axis + 2] // step)
        kept.append(slice(first, size - last))
        pads.append((conv.pads[axis] - first * step, conv.pads[axis + 2] - last * step))
    rows, columns = pads
    return replace(conv, weight=conv.weight[:, :, kept[0], kept[1]], pads=(rows[0], columns[0], rows[1], columns[1]))
