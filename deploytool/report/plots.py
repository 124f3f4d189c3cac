"""The drawings of one run: errors against noise, layers, speed-ups, latencies, and batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from deploytool.report.rows import Link, Strip
from deploytool.report.svg import ACCENT, BAD, INK, MUTED, PAPER, WIDTH, Plot, canvas, plain_log, words
from deploytool.report.timings import Bar, Series
from deploytool.spec import Stage

_OURS = tuple(Stage)  # all else is what they are beside
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (8, 3, 3, 3)), (0, (2, 4)))
_FAINTEST = 0.01  # times the noise: what is less is not worth room
_ROW = 22.0  # points


def chain(links: Sequence[Link]) -> Plot:
    """How far each artifact lies from FP64, and from the one before, against what is tolerated; in units of noise."""
    with canvas("chain", WIDTH, 52 + _ROW * len(links)) as paper:
        axes = _rows(paper.axes(108, 38, 12, 8), [link.label for link in links])
        shown = [value for link in links for value in (link.truth, link.before, link.allowed) if value]
        low, high = max(_FAINTEST, min([0.1, *shown])), max([10.0, *(min(value, 1e6) for value in shown)])
        axes.set_xscale("log")
        axes.set_xlim(low / 1.8, high * 1.8)
        axes.axvline(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        for place, link in enumerate(links):
            tone = ACCENT if link.held else BAD
            truth = min(max(link.truth, low / 1.5), high)
            axes.plot([low / 1.8, truth], [place, place], color=tone, linewidth=1.4, alpha=0.35)
            if link.before is not None:
                before = min(max(link.before, low / 1.5), high)
                axes.plot([before], [place], "o", markersize=5.5, markerfacecolor=PAPER, markeredgecolor=tone)
            axes.plot([truth], [place], "o" if link.held else "X", markersize=6.5 if link.held else 8, color=tone)
            axes.plot([link.allowed] * 2, [place - 0.34, place + 0.34], color=INK, linewidth=1.6)
        axes.set_xlabel("times the noise of the arithmetic")
        _times(axes)
        worst = max(links, key=lambda link: link.truth / link.allowed)
        told = (
            f"{len(links)} artifacts; the nearest to its tolerance is {worst.label}, {worst.truth:.1f} times the noise"
        )
        return paper.done("Errors against noise and tolerance", CHAIN, f"{told} where {worst.allowed:.1f} are allowed.")


CHAIN = (
    "Filled: largest error against FP64. Open: against the artifact before. Bar: what is tolerated. Dashed: the noise "
    "itself. A cross is beyond its tolerance. Left edge: a hundredth of the noise or less."
)


def strip(drawn: Strip, number: int) -> Plot:
    """Every tensor of one graph in order: the higher, the further from what it should be; above the line is wrong."""
    count = len(drawn.multiples)
    with canvas(f"strip{number}", 860, 46) as paper:
        axes = paper.axes(0, 0, 0, 0)
        axes.axis("off")
        axes.set_xlim(0, max(count, 1))
        axes.set_ylim(0, 1)
        known = [(at, each) for at, each in enumerate(drawn.multiples) if each is not None]
        unknown = [(at, 0.03) for at, each in enumerate(drawn.multiples) if each is None]
        _columns(axes, [(at, _height(each)) for at, each in known if each <= 1], ACCENT)
        _columns(axes, [(at, _height(each)) for at, each in known if each > 1], BAD)
        _columns(axes, unknown, MUTED)
        axes.axhline(_height(1.0), color=INK, linewidth=0.9, linestyle=(0, (3, 3)))
        told = f"{count} tensors, {sum(each > 1 for _, each in known)} beyond their noise floor; worst: {drawn.worst}."
        return paper.done(f"Layers of {drawn.stage}", "", told, elastic=True)


def _columns(axes: Axes, columns: Sequence[tuple[int, float]], tone: str) -> None:
    """A column at each place, all of them one path: a graph may have a thousand."""
    corners = [(x, y) for at, height in columns for x, y in _outline(at, height)]
    if corners:
        codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(columns)
        axes.add_patch(PathPatch(Path(corners, codes), facecolor=tone, linewidth=0))


def _outline(at: int, height: float) -> tuple[tuple[float, float], ...]:
    left, right = at + 0.14, at + 0.86
    return ((left, 0.0), (left, height), (right, height), (right, 0.0), (left, 0.0))


def _height(multiple: float) -> float:
    """Where a multiple of the noise floor stands: a thousandth at the bottom, the floor itself at 0.62."""
    return float(np.clip(0.05 + 0.19 * (math.log10(max(multiple, 1e-9)) + 3), 0.05, 1.0))


def speed(bars: Sequence[Bar]) -> Plot:
    """The speed-up of each artifact with its interval."""
    with canvas("speed", WIDTH, 52 + _ROW * len(bars)) as paper:
        axes = _rows(paper.axes(66, 38, 46, 8), [bar.label for bar in bars])
        axes.axvline(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        right = max([1.5, *(bar.high for bar in bars)])
        for place, bar in enumerate(bars):
            axes.plot([bar.low, bar.high], [place, place], color=ACCENT, linewidth=5, alpha=0.35)
            axes.plot([bar.value], [place], "o", markersize=6, color=ACCENT)
            axes.annotate(
                f"{bar.value:.2f}×", (1, place), (8, 0), ("axes fraction", "data"), "offset points", va="center"
            )
        axes.set_xlim(0, right * 1.05)
        axes.set_xlabel("times as fast as eager PyTorch")
        best = max(bars, key=lambda bar: bar.value)
        told = f"The fastest is {best.label}, {best.value:.2f} times eager, between {best.low:.2f} and {best.high:.2f}."
        return paper.done("Speed-up", "Dot: ratio of medians. Bar: 95 % bootstrap interval. Dashed: eager.", told)


def latencies(series: Sequence[Series], unit: str) -> Plot:
    """The distribution of latencies: the share of calls that took no longer."""
    with canvas("latencies", WIDTH, 214 + _legend_height(len(series))) as paper:
        axes = paper.axes(38, 40 + _legend_height(len(series)), 10, 10)
        styles = _styles([each.label for each in series])
        every = np.concatenate([each.values for each in series])
        for each in series:
            values = np.sort(np.asarray(each.values))
            shares = np.arange(1, len(values) + 1) / len(values)
            axes.step(values, shares, where="post", **styles[each.label])
        _legend(axes, styles)
        if every.max() > 4 * every.min() > 0:
            axes.set_xscale("log")
            plain_log(axes)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.grid(visible=True)
        axes.set_xlabel(f"milliseconds {unit}")
        told = "; ".join(f"{each.label}: median {np.median(each.values):.2f} ms" for each in series)
        return paper.done("Latency", "The share of calls that took no longer.", told)


def sweep(lines: Sequence[tuple[str, Sequence[tuple[int, float]]]]) -> Plot:
    """Images a second against the batch."""
    with canvas("sweep", WIDTH, 214 + _legend_height(len(lines))) as paper:
        axes = paper.axes(38, 40 + _legend_height(len(lines)), 10, 10)
        styles = _styles([label for label, _ in lines])
        for label, points in lines:
            batches, rates = zip(*points, strict=True)
            axes.plot(batches, rates, marker="o", markersize=4, **styles[label])
        _legend(axes, styles)
        sizes = sorted({batch for _, points in lines for batch, _ in points})
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, axis="y")
        axes.set_xlabel("batch")
        best = max(((label, *point) for label, points in lines for point in points), key=lambda each: each[2])
        told = f"The most is {best[2]:.0f} images a second, by {best[0]} at batch {best[1]}."
        return paper.done("Batch sweep", "Images a second, by the size of the batch.", told)


def _rows(axes: Axes, labels: Sequence[str]) -> Axes:
    """A row for each label, the first at the top."""
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), [words(label) for label in labels])
    axes.grid(visible=True, axis="x")
    return axes


def _times(axes: Axes) -> None:
    axes.xaxis.set_major_locator(LogLocator(10, numticks=6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))


def _styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A line for each label: our artifacts in the accent, what they are beside in grey, each dashed its own way."""
    styles: dict[str, dict[str, Any]] = {}
    seen = {ACCENT: 0, MUTED: 0}
    for label in labels:
        tone = ACCENT if label in _OURS else MUTED
        dash = _DASHES[seen[tone] % len(_DASHES)]
        seen[tone] += 1
        styles[label] = {"color": tone, "linewidth": 1.7, "linestyle": dash}
    return styles


def _legend_height(count: int) -> float:
    """What the legend takes below a plot, in points: two labels a row."""
    return 15.0 * ((count + 1) // 2)


def _legend(axes: Axes, styles: Mapping[str, dict[str, Any]]) -> None:
    """The labels below a plot, each beside a piece of its line."""
    handles = [Line2D([], [], **style) for style in styles.values()]
    axes.legend(
        handles,
        [words(label) for label in styles],
        loc="upper left",
        bbox_to_anchor=(-0.1, -0.235),
        ncols=2,
        frameon=False,
        fontsize=9.5,
        handlelength=2.6,
        borderaxespad=0,
        labelspacing=0.25,
        columnspacing=1.4,
    )
