"""A convolution with weights that are known, as numbers one can calculate with, and written back as a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from deploytool.rewrites.graph.editable import Array, EditableGraph, attributes

Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional convolution: `weight` is (outputs, inputs of a group, height, width), `bias` (outputs).

    `pads` are top, left, bottom, right.
    """

    node: NodeProto
    weight: Array
    bias: Array
    group: int = 1
    strides: Pair = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: Pair = (1, 1)

    @property
    def source(self) -> str:
        """The tensor it reads."""
        return str(self.node.input[0])

    @property
    def result(self) -> str:
        """The tensor it makes."""
        return str(self.node.output[0])

    @property
    def inputs(self) -> int:
        """How many channels it reads."""
        return int(self.weight.shape[1]) * self.group

    @property
    def outputs(self) -> int:
        """How many channels it makes."""
        return len(self.weight)

    @property
    def kernel(self) -> Pair:
        """Height and width of its weights."""
        return self.weight.shape[2], self.weight.shape[3]

    def is_depthwise(self) -> bool:
        """Whether every channel has a convolution of its own, with one result."""
        return self.group > 1 and self.group == self.inputs == self.outputs

    def is_pointwise(self) -> bool:
        """Whether it mixes the channels of each place and looks nowhere else."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)


def read(draft: EditableGraph, node: NodeProto | None) -> Convolution | None:
    """The convolution that a node is; None for any other node, unknown weights, three dimensions, automatic padding."""
    if node is None or node.op_type != "Conv":
        return None
    weight, said = draft.constant(node.input[1]), attributes(node)
    bias = draft.constant(node.input[2]) if len(node.input) == 3 and node.input[2] else None
    if weight is None or weight.ndim != 4 or (bias is None and len(node.input) == 3 and node.input[2]):
        return None
    if said.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    return Convolution(
        node,
        weight,
        np.zeros(len(weight), weight.dtype) if bias is None else bias,
        int(said.get("group", 1)),
        _pair(said.get("strides", (1, 1))),
        tuple(said.get("pads", (0, 0, 0, 0))),
        _pair(said.get("dilations", (1, 1))),
    )


def _pair(values: Sequence[int]) -> Pair:
    return int(values[0]), int(values[1])


def every(draft: EditableGraph) -> list[Convolution]:
    """All convolutions of a graph, in order."""
    return [found for node in draft.nodes if (found := read(draft, node))]


def write(
    draft: EditableGraph, new: Convolution, source: str, makes: str = "", like: NodeProto | None = None
) -> NodeProto:
    """The node of a convolution, with its weights, called after `like`; it reads `source` and makes `makes`."""
    like = like or new.node
    stem = like.name.rpartition("/")[0]
    reads = [source, draft.weight(f"{stem}/weight", new.weight), draft.weight(f"{stem}/bias", new.bias)]
    return draft.node(
        "Conv",
        like,
        reads,
        makes,
        dilations=new.dilations,
        group=new.group,
        kernel_shape=new.kernel,
        pads=new.pads,
        strides=new.strides,
    )


def dense(conv: Convolution) -> Array:
    """Its weights as those of one group: (outputs, inputs, height, width), zero where groups do not meet."""
    full = np.zeros((conv.outputs, conv.inputs, *conv.kernel), conv.weight.dtype)
    rows, columns = conv.outputs // conv.group, conv.weight.shape[1]
    for each in range(conv.group):
        mine = slice(each * rows, (each + 1) * rows)
        full[mine, each * columns : (each + 1) * columns] = conv.weight[mine]
    return full


def grouped(full: Array, group: int) -> Array:
    """The weights of one group as those of `group` groups; what lies outside of them must be zero."""
    rows, columns = full.shape[0] // group, full.shape[1] // group
    parts = [full[each * rows : (each + 1) * rows, each * columns : (each + 1) * columns] for each in range(group)]
    return np.concatenate(parts)


def take(values: Array, layout: Array, axis: int = 0) -> Array:
    """The channels that `layout` names, in its order; -1 stands for a channel of zeros."""
    taken = np.take(values, np.maximum(layout, 0), axis)
    shape = [1] * values.ndim
    shape[axis] = len(layout)
    return np.where((layout >= 0).reshape(shape), taken, np.zeros((), values.dtype))


@dataclass(frozen=True)
class Window:
    """The smallest window that holds the windows of several convolutions, each at its place (row, column) in it."""

    kernel: Pair
    pads: tuple[int, int, int, int]
    places: tuple[Pair, ...]

    def embed(self, conv: Convolution, place: Pair) -> Array:
        """The weights of one of them, spread out by its dilation, in a window of zeros."""
        height, width = ((size - 1) * step + 1 for size, step in zip(conv.kernel, conv.dilations, strict=True))
        weight = np.zeros((*conv.weight.shape[:2], *self.kernel), conv.weight.dtype)
        rows = slice(place[0], place[0] + height, conv.dilations[0])
        columns = slice(place[1], place[1] + width, conv.dilations[1])
        weight[:, :, rows, columns] = conv.weight
        return weight


def window(convs: Sequence[Convolution]) -> Window | str:
    """The window that holds all of them, or why there is none.

    A window of k places that begins p places before the picture makes its result from w[j] x[i s + j - p]. Put at
    place P - p of a wider window that begins P before, it makes the same. The results have the same size if the pads of
    both ends, less the window, come to the same.
    """
    if len({conv.strides for conv in convs}) > 1:
        return "the strides differ"
    sides = []
    for axis in range(2):
        begins = [conv.pads[axis] for conv in convs]
        spans = [(conv.kernel[axis] - 1) * conv.dilations[axis] + 1 for conv in convs]
        slacks = {conv.pads[axis] + conv.pads[axis + 2] - span for conv, span in zip(convs, spans, strict=True)}
        if len(slacks) > 1:
            return "the paddings make results of different sizes"
        first = max(begins)
        places = [first - begin for begin in begins]
        size = max(place + span for place, span in zip(places, spans, strict=True))
        sides.append((size, first, slacks.pop() - first + size, places))
    rows, columns = sides
    pads = (rows[1], columns[1], rows[2], columns[2])
    if min(pads) < 0:
        return "the padding would be negative"
    return Window((rows[0], columns[0]), pads, tuple(zip(rows[3], columns[3], strict=True)))


def stack(convs: Sequence[Convolution], group: int) -> Convolution | str:
    """One convolution, in `group` groups, that makes the results of several, in their order; or why there is none."""
    fit = window(convs)
    if isinstance(fit, str):
        return fit
    return replace(
        convs[0],
        weight=np.concatenate([fit.embed(conv, place) for conv, place in zip(convs, fit.places, strict=True)]),
        bias=np.concatenate([conv.bias for conv in convs]),
        group=group,
        pads=fit.pads,
        dilations=(1, 1),
    )


def rows(conv: Convolution, begin: int, end: int) -> Convolution:
    """The convolution that makes only some of the channels; it has one group, or is depthwise."""
    group = end - begin if conv.is_depthwise() else 1
    return replace(conv, weight=conv.weight[begin:end], bias=conv.bias[begin:end], group=group)


def cropped(conv: Convolution) -> Convolution:
    """The convolution without the edges of its window that hold zeros in all channels, as far as its padding goes."""
    pads, cuts = [], []
    for axis in range(2):
        used = np.flatnonzero(conv.weight.any((0, 1, 3 - axis)))
        size, step = conv.kernel[axis], conv.dilations[axis]
        first, last = (int(used[0]), size - 1 - int(used[-1])) if len(used) else (0, 0)
        first, last = min(first, conv.pads[axis] // step), min(last, conv.pads[axis + 2] // step)
        cuts.append(slice(first, size - last))
        pads.append((conv.pads[axis] - first * step, conv.pads[axis + 2] - last * step))
    rows, columns = pads
    return replace(conv, weight=conv.weight[:, :, cuts[0], cuts[1]], pads=(rows[0], columns[0], rows[1], columns[1]))
