"""Plots of one run: errors in multiples of the noise, layers, speed-ups, latencies, throughput by batch size."""

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

from deploytool.report.rows import ComparisonBar, LayerStrip
from deploytool.report.svg import ACCENT, BAD, INK, MUTED, PAPER, WIDTH, Plot, canvas, plot_text, readable_log_ticks
from deploytool.report.timings import Bar, Series
from deploytool.results.report import Baseline
from deploytool.spec import Stage

_ARTIFACTS = tuple(Stage)  # all other labels are baselines
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (8, 3, 3, 3)), (0, (2, 4)))
_SMALLEST = 0.01  # times the noise: smaller errors are drawn at the left edge
_ROW = 22.0  # height of a row in points


COMPARISON_CAPTION = (
    "Filled: largest error against FP64. Open: against the previous artifact. Vertical bar: tolerance. Dashed: the "
    "noise itself. A cross exceeds its tolerance. Left edge: a hundredth of the noise or less."
)


def comparison_errors(bars: Sequence[ComparisonBar]) -> Plot:
    """The error of each artifact against FP64 and against the previous one, with the tolerance; in units of noise."""
    with canvas("errors", WIDTH, 52 + _ROW * len(bars)) as paper:
        axes = _label_rows(paper.axes(108, 38, 12, 8), [bar.label for bar in bars])
        values = [value for bar in bars for value in (bar.error, bar.previous, bar.tolerance) if value]
        low, high = max(_SMALLEST, min([0.1, *values])), max([10.0, *(min(value, 1e6) for value in values)])
        axes.set_xscale("log")
        axes.set_xlim(low / 1.8, high * 1.8)
        axes.axvline(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        for row, bar in enumerate(bars):
            tone = ACCENT if bar.passed else BAD
            error = min(max(bar.error, low / 1.5), high)
            axes.plot([low / 1.8, error], [row, row], color=tone, linewidth=1.4, alpha=0.35)
            if bar.previous is not None:
                previous = min(max(bar.previous, low / 1.5), high)
                axes.plot([previous], [row], "o", markersize=5.5, markerfacecolor=PAPER, markeredgecolor=tone)
            axes.plot([error], [row], "o" if bar.passed else "X", markersize=6.5 if bar.passed else 8, color=tone)
            axes.plot([bar.tolerance] * 2, [row - 0.34, row + 0.34], color=INK, linewidth=1.6)
        axes.set_xlabel("error, in multiples of the noise")
        _multiple_ticks(axes)
        worst = max(bars, key=lambda bar: bar.error / bar.tolerance)
        description = (
            f"{len(bars)} artifacts; the closest to its tolerance is {worst.label}, with {worst.error:.1f} times the "
            f"noise and a tolerance of {worst.tolerance:.1f}."
        )
        return paper.finish("Errors, noise and tolerance", COMPARISON_CAPTION, description)


def strip(layers: LayerStrip, number: int) -> Plot:
    """The error of every tensor of one graph, in graph order; columns above the line exceed their noise floor."""
    count = len(layers.multiples)
    with canvas(f"strip{number}", 860, 46) as paper:
        axes = paper.axes(0, 0, 0, 0)
        axes.axis("off")
        axes.set_xlim(0, max(count, 1))
        axes.set_ylim(0, 1)
        known = [(index, multiple) for index, multiple in enumerate(layers.multiples) if multiple is not None]
        unknown = [(index, 0.03) for index, multiple in enumerate(layers.multiples) if multiple is None]
        _columns(axes, [(index, _height(multiple)) for index, multiple in known if multiple <= 1], ACCENT)
        _columns(axes, [(index, _height(multiple)) for index, multiple in known if multiple > 1], BAD)
        _columns(axes, unknown, MUTED)
        axes.axhline(_height(1.0), color=INK, linewidth=0.9, linestyle=(0, (3, 3)))
        above = sum(multiple > 1 for _, multiple in known)
        description = f"{count} tensors, {above} above their noise floor; worst: {layers.worst}."
        return paper.finish(f"Layers of {layers.stage}", "", description, elastic=True)


def _columns(axes: Axes, columns: Sequence[tuple[int, float]], tone: str) -> None:
    """Draws columns by index and height as a single path: a graph may have a thousand."""
    corners = [corner for index, height in columns for corner in _outline(index, height)]
    if corners:
        codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(columns)
        axes.add_patch(PathPatch(Path(corners, codes), facecolor=tone, linewidth=0))


def _outline(index: int, height: float) -> tuple[tuple[float, float], ...]:
    left, right = index + 0.14, index + 0.86
    return ((left, 0.0), (left, height), (right, height), (right, 0.0), (left, 0.0))


def _height(multiple: float) -> float:
    """Column height of a multiple of the noise floor, logarithmic: 0.05 for a thousandth, 0.62 for the floor itself."""
    return float(np.clip(0.05 + 0.19 * (math.log10(max(multiple, 1e-9)) + 3), 0.05, 1.0))


def speed(bars: Sequence[Bar], baseline: Baseline) -> Plot:
    """The speed-up of each artifact over the baseline with its 95 % interval."""
    with canvas("speed", WIDTH, 52 + _ROW * len(bars)) as paper:
        axes = _label_rows(paper.axes(66, 38, 46, 8), [bar.label for bar in bars])
        axes.axvline(1.0, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        right = max([1.5, *(bar.high for bar in bars)])
        for row, bar in enumerate(bars):
            axes.plot([bar.low, bar.high], [row, row], color=ACCENT, linewidth=5, alpha=0.35)
            axes.plot([bar.value], [row], "o", markersize=6, color=ACCENT)
            axes.annotate(
                f"{bar.value:.2f}×", (1, row), (8, 0), ("axes fraction", "data"), "offset points", va="center"
            )
        axes.set_xlim(0, right * 1.05)
        axes.set_xlabel(f"times as fast as {baseline.text}")
        best = max(bars, key=lambda bar: bar.value)
        description = (
            f"The fastest is {best.label}, {best.value:.2f} times as fast as {baseline.text}, "
            f"between {best.low:.2f} and {best.high:.2f}."
        )
        return paper.finish(
            "Speed-up", "Dot: ratio of medians. Bar: 95 % bootstrap interval. Dashed: the baseline.", description
        )


def latencies(series: Sequence[Series], unit: str) -> Plot:
    """The cumulative distribution of latencies of each series; `unit` completes the axis label."""
    with canvas("latencies", WIDTH, 214 + _legend_height(len(series))) as paper:
        axes = paper.axes(38, 40 + _legend_height(len(series)), 10, 10)
        styles = _styles([line.label for line in series])
        all_values = np.concatenate([line.values for line in series])
        for line in series:
            values = np.sort(np.asarray(line.values))
            shares = np.arange(1, len(values) + 1) / len(values)
            axes.step(values, shares, where="post", **styles[line.label])
        _legend(axes, styles)
        if all_values.max() > 4 * all_values.min() > 0:
            axes.set_xscale("log")
            readable_log_ticks(axes)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.grid(visible=True)
        axes.set_xlabel(f"milliseconds {unit}")
        description = "; ".join(f"{line.label}: median {np.median(line.values):.2f} ms" for line in series)
        return paper.finish("Latency", "Share of calls with at most this latency.", description)


def sweep(lines: Sequence[tuple[str, Sequence[tuple[int, float]]]]) -> Plot:
    """Throughput by batch size; each line is a label with batch sizes and samples per second."""
    with canvas("sweep", WIDTH, 214 + _legend_height(len(lines))) as paper:
        axes = paper.axes(38, 40 + _legend_height(len(lines)), 10, 10)
        styles = _styles([label for label, _ in lines])
        for label, points in lines:
            batches, rates = zip(*points, strict=True)
            axes.plot(batches, rates, marker="o", markersize=4, **styles[label])
        _legend(axes, styles)
        sizes = sorted({batch for _, points in lines for batch, _ in points})
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, axis="y")
        axes.set_xlabel("batch")
        rate, label, batch = max(
            ((rate, label, batch) for label, points in lines for batch, rate in points), key=lambda best: best[0]
        )
        description = f"The highest throughput is {rate:.0f} samples per second, by {label} at batch {batch}."
        return paper.finish("Batch sweep", "Samples per second by batch size.", description)


def _label_rows(axes: Axes, labels: Sequence[str]) -> Axes:
    """Axes with one row for each label, the first at the top."""
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), [plot_text(label) for label in labels])
    axes.grid(visible=True, axis="x")
    return axes


def _multiple_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(LogLocator(10, numticks=6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))


def _styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A line style for each label: artifacts in the accent colour, baselines in grey, each with its own dashes."""
    styles: dict[str, dict[str, Any]] = {}
    used = {ACCENT: 0, MUTED: 0}
    for label in labels:
        tone = ACCENT if label in _ARTIFACTS else MUTED
        dash = _DASHES[used[tone] % len(_DASHES)]
        used[tone] += 1
        styles[label] = {"color": tone, "linewidth": 1.7, "linestyle": dash}
    return styles


def _legend_height(count: int) -> float:
    """Height of the legend below a plot in points, with two labels a row."""
    return 15.0 * ((count + 1) // 2)


def _legend(axes: Axes, styles: Mapping[str, dict[str, Any]]) -> None:
    """Draws the labels below a plot, each beside a piece of its line."""
    handles = [Line2D([], [], **style) for style in styles.values()]
    axes.legend(
        handles,
        [plot_text(label) for label in styles],
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
