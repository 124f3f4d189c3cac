"""Decides how to partition coupled channels into parts, each padded with zeros to whole blocks."""

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

Layout = tuple[Array, ...]  # the channels of each part in order; -1 is a padding channel of zeros

BLOCK = 16  # channels: ONNX Runtime's block on AVX-512; other channel counts run much slower
_CACHED = 262_144  # elements of a part: half the L2 cache of a server core: a part is read soon after it is written
_LARGE = 2 * _CACHED  # elements of channels without any other cut: each cut costs a sum
_MAX_PADDING = 1.35  # the largest ratio of padded to original channels; more zeros would cost more than they save


def partitions(graph: EditableGraph, groups: Mapping[str, CoupledChannels]) -> dict[CoupledChannels, Layout]:
    """The layout of every group of coupled channels that is to change; empty if no group is cut.

    Where the weights of a pointwise convolution are block-diagonal, the groups on both of its sides are cut between the
    blocks. Where the window of a depthwise convolution changes, its group is cut too. If there are any cuts, every
    group whose parts exceed the cache is cut further; otherwise only the largest groups of depthwise convolutions are.
    """
    block_cuts: defaultdict[CoupledChannels, set[int]] = defaultdict(set)
    window_cuts: defaultdict[CoupledChannels, dict[int, bool]] = defaultdict(dict)
    depthwise = set[CoupledChannels]()
    for conv in convolution.read_all(graph):
        source, result = groups.get(conv.input), groups.get(conv.output)
        if result and conv.is_depthwise():
            window_cuts[result] |= window_changes(conv)
            depthwise.add(result)
        elif source and result and conv.is_pointwise():
            rows, columns = diagonal_blocks(conv.weight)
            if _is_worth(rows, result.channels) and _is_worth(columns, source.channels):
                block_cuts[result].update(rows)
                block_cuts[source].update(columns)
    cuts = {
        group: _cuts(group.channels, block_cuts[group], window_cuts[group]) for group in dict.fromkeys(groups.values())
    }
    limit, limited = (_CACHED, set(cuts)) if any(cuts.values()) else (_LARGE, depthwise)
    ranges = {group: _ranges(group, at, limit if group in limited else sys.maxsize) for group, at in cuts.items()}
    if all(len(parts) == 1 for parts in ranges.values()):
        return {}
    layouts = {group: tuple(_padded(*part) for part in parts) for group, parts in ranges.items()}
    return {group: layout for group, layout in layouts.items() if len(layout) > 1 or group.channels % BLOCK}


def diagonal_blocks(weight: Array) -> tuple[list[int], list[int]]:
    """The first row and the first column of each block of a block diagonal, without the first block."""
    used = np.asarray((weight != 0).any((2, 3)))
    height, width = used.shape
    is_row_used = np.asarray(used.any(1))
    ends = np.where(is_row_used, width - used[:, ::-1].argmax(1), 0)
    begins = np.where(is_row_used, used.argmax(1), width)
    before, after = np.maximum.accumulate(ends), np.minimum.accumulate(begins[::-1])[::-1]
    rows = [row for row in range(1, height) if 0 < before[row - 1] <= after[row] and is_row_used[row]]
    return rows, [int(after[row]) for row in rows]


def window_changes(conv: Convolution) -> dict[int, bool]:
    """The channels at which the window of a depthwise convolution changes, and whether it grows there.

    The window of a channel is the extent of its nonzero weights from the centre; a channel of zeros counts with the one
    before.
    """
    height, width = conv.kernel
    distances = np.maximum(
        np.abs(2 * np.arange(height) - height + 1)[:, None], np.abs(2 * np.arange(width) - width + 1)
    )
    sizes = np.where(conv.weight[:, 0] != 0, distances + 1, 0).max((1, 2)).tolist()
    changes, last = {}, sizes[0]
    for channel, size in enumerate(sizes):
        if size and last and size != last:
            changes[channel] = size > last
        last = size or last
    return changes


def _is_worth(cuts: Collection[int], channels: int) -> bool:
    """Whether cutting there needs little padding."""
    padded = sum(-(-(end - begin) // BLOCK) for begin, end in pairwise((0, *cuts, channels)))
    return bool(cuts) and padded <= _MAX_PADDING * -(-channels // BLOCK)


def _cuts(channels: int, block_cuts: Collection[int], window_cuts: Mapping[int, bool]) -> list[int]:
    """Where to cut: exactly at the blocks of weights, and at the whole block next to each change of window.

    The channels between a change and its cut join the part with the larger window.
    """
    cuts = set(block_cuts)
    for begin, end in pairwise(sorted({0, *block_cuts, channels})):
        for change, grows in window_cuts.items():
            cut = begin + (change - begin + (0 if grows else BLOCK - 1)) // BLOCK * BLOCK
            if begin < change < end and begin < cut < end:
                cuts.add(cut)
    return sorted(cuts)


def _ranges(group: CoupledChannels, cuts: Collection[int], max_elements: int) -> list[tuple[int, int]]:
    """Begin and end of each part; parts of more than `max_elements` elements are cut further."""
    max_channels = max(BLOCK, max_elements // max(group.pixels, 1) // BLOCK * BLOCK)
    ranges = []
    for begin, end in pairwise((0, *cuts, group.channels)):
        number = -(-(end - begin) // max_channels)
        step = -(-(end - begin) // (number * BLOCK)) * BLOCK
        ranges += [(at, min(at + step, end)) for at in range(begin, end, step)]
    return ranges


def _padded(begin: int, end: int) -> Array:
    return np.concatenate([np.arange(begin, end), np.full(-(end - begin) % BLOCK, -1)])
