"""The layout: in which parts the channels of a space are kept, each filled up with zeros to whole blocks."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import pairwise

import numpy as np

from deploytool.rewrites.graph import convolution
from deploytool.rewrites.graph.convolution import Convolution
from deploytool.rewrites.graph.coupled_channels import CoupledChannels
from deploytool.rewrites.graph.editable import Array, EditableGraph

Layout = tuple[Array, ...]  # the channels of each part in their order; -1 is a filling zero

BLOCK = 16  # channels: ONNX Runtime keeps so many together on AVX-512, and computes much slower what does not fill them
_NEAR = 262_144  # values of a part: half of the second-level cache of a server's core, for what is made is read at once
_LARGE = 2 * _NEAR  # of a space that nothing else cuts: each cut costs a sum
_FILLING = 1.35  # times as many channels, at most, for the sake of zeros that need not be multiplied


def partitions(draft: EditableGraph, homes: Mapping[str, CoupledChannels]) -> dict[CoupledChannels, Layout]:
    """How to lay out the spaces, those aside that stay as they are; nothing if no space falls into parts.

    Where the weights of a pointwise convolution are blocks on a diagonal, the spaces on both of its sides are cut
    between the blocks. Where the window of a depthwise convolution changes, its space is cut too. Once there are cuts,
    every space that is too large to stay near is cut; else only the largest of depthwise convolutions are.
    """
    firm: defaultdict[CoupledChannels, set[int]] = defaultdict(set)
    loose: defaultdict[CoupledChannels, dict[int, bool]] = defaultdict(dict)
    depthwise = set[CoupledChannels]()
    for conv in convolution.every(draft):
        source, result = homes.get(conv.source), homes.get(conv.result)
        if result and conv.is_depthwise():
            loose[result] |= changes(conv)
            depthwise.add(result)
        elif source and result and conv.is_pointwise():
            rows, columns = diagonal(conv.weight)
            if _worth(rows, result.width) and _worth(columns, source.width):
                firm[result].update(rows)
                firm[source].update(columns)
    cut = {space: _cuts(space.width, firm[space], loose[space]) for space in dict.fromkeys(homes.values())}
    most, near = (_NEAR, set(cut)) if any(cut.values()) else (_LARGE, depthwise)
    ends = {space: _ends(space, cuts, most if space in near else sys.maxsize) for space, cuts in cut.items()}
    if all(len(each) == 1 for each in ends.values()):
        return {}
    found = {space: tuple(_filled(*each) for each in every) for space, every in ends.items()}
    return {space: parts for space, parts in found.items() if len(parts) > 1 or space.width % BLOCK}


def diagonal(weight: Array) -> tuple[list[int], list[int]]:
    """The rows and the columns at which the blocks of a block diagonal begin, the first of them aside."""
    used = np.asarray((weight != 0).any((2, 3)))
    height, width = used.shape
    filled = np.asarray(used.any(1))
    ends = np.where(filled, width - used[:, ::-1].argmax(1), 0)
    begins = np.where(filled, used.argmax(1), width)
    before, after = np.maximum.accumulate(ends), np.minimum.accumulate(begins[::-1])[::-1]
    rows = [row for row in range(1, height) if 0 < before[row - 1] <= after[row] and filled[row]]
    return rows, [int(after[row]) for row in rows]


def changes(conv: Convolution) -> dict[int, bool]:
    """The channels at which the window of a depthwise convolution changes, and whether it does not grow smaller there.

    A window here is as large as the weights reach from its middle; a channel of zeros goes with the one before.
    """
    height, width = conv.kernel
    away = np.maximum(np.abs(2 * np.arange(height) - height + 1)[:, None], np.abs(2 * np.arange(width) - width + 1))
    sizes = np.where(conv.weight[:, 0] != 0, away + 1, 0).max((1, 2)).tolist()
    found, last = {}, sizes[0]
    for channel, size in enumerate(sizes):
        if size and last and size != last:
            found[channel] = size > last
        last = size or last
    return found


def _worth(cuts: Collection[int], width: int) -> bool:
    """Whether cutting there fills up with few zeros."""
    filled = sum(-(-(end - begin) // BLOCK) for begin, end in pairwise((0, *cuts, width)))
    return bool(cuts) and filled <= _FILLING * -(-width // BLOCK)


def _cuts(width: int, firm: Collection[int], loose: Mapping[int, bool]) -> list[int]:
    """Where a space is cut: between blocks of weights at that channel, between windows at a whole block beside it.

    The channels that so come to their neighbours go to those with the larger window.
    """
    found = set(firm)
    for begin, end in pairwise(sorted({0, *firm, width})):
        for cut, grows in loose.items():
            whole = begin + (cut - begin + (0 if grows else BLOCK - 1)) // BLOCK * BLOCK
            if begin < cut < end and begin < whole < end:
                found.add(whole)
    return sorted(found)


def _ends(space: CoupledChannels, cuts: Collection[int], values: int) -> list[tuple[int, int]]:
    """Begin and end of each part; what has more values than that is cut further."""
    most = max(BLOCK, values // max(space.places, 1) // BLOCK * BLOCK)
    found = []
    for begin, end in pairwise((0, *cuts, space.width)):
        number = -(-(end - begin) // most)
        step = -(-(end - begin) // (number * BLOCK)) * BLOCK
        found += [(at, min(at + step, end)) for at in range(begin, end, step)]
    return found


def _filled(begin: int, end: int) -> Array:
    return np.concatenate([np.arange(begin, end), np.full(-(end - begin) % BLOCK, -1)])
