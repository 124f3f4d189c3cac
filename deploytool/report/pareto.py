"""Plots artifacts by latency and by accuracy or size, and marks the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

from deploytool.report.rows import Point
from deploytool.report.svg import (
    ACCENT,
    BAD,
    MUTED,
    PAPER,
    WIDTH,
    Plot,
    canvas,
    plot_text,
    readable_log_ticks,
    vertical_log_ticks,
)

_MARKERS = {
    "o": "●",
    "s": "■",
    "D": "◆",
    "^": "▲",
    "v": "▼",
    "P": "✚",
    "*": "★",
    "h": "⬢",
    "X": "✖",
    "<": "◀",
    ">": "▶",
    "p": "⬟",
    "d": "⬧",
}
SIGNS = len(_MARKERS)  # models that can be told apart


def pareto(
    points: Sequence[Point],
    vertical: str,
    number: int,
    *,
    logarithmic: bool,
    title: str,
    caption: str,
    signs: bool = True,
) -> Plot:
    """Every measured artifact by latency and by another quantity; `vertical` is the label of its axis.

    With `logarithmic`, that axis has its small values at the top; with `signs`, each model has a marker of its own.
    """
    with canvas(f"pareto{number}", WIDTH, 280) as paper:
        axes = paper.axes(56, 42, 12, 14)
        axes.set_xscale("log")
        if logarithmic:
            axes.set_yscale("log")
            axes.invert_yaxis()  # small is better, and at the top
        front = [point for point in points if point.front]
        axes.plot(
            [point.latency for point in front], [point.value for point in front], color=ACCENT, linewidth=1.2, alpha=0.5
        )
        markers = _model_markers([point.model for point in points])
        markers = markers if signs else dict.fromkeys(markers, "o")
        for point in sorted(points, key=lambda point: list(markers).index(point.model)):
            face = ACCENT if point.front else PAPER
            edge = ACCENT if point.passed else BAD
            marker = markers[point.model] if point.passed else "x"
            axes.plot([point.latency], [point.value], marker, markersize=7.5, color=face, markeredgecolor=edge)
        labelled = {point.model: point for point in reversed(front)}  # the fastest of each model
        for point in labelled.values():
            position = (point.latency, point.value)
            axes.annotate(plot_text(point.model), position, (-4, 9), textcoords="offset points", fontsize=9.5)
        axes.margins(0.12)
        axes.grid(visible=True)
        readable_log_ticks(axes)
        if logarithmic:
            vertical_log_ticks(axes)
        axes.set_xlabel("latency of one batch, milliseconds")
        axes.set_ylabel(vertical, color=MUTED)
        description = "On the front: " + "; ".join(f"{point.label} at {point.latency:.2f} ms" for point in front)
        return paper.finish(title, caption, description)


def caption(better: str) -> str:
    """The caption of a plot on whose front no other artifact is both faster and `better`."""
    return (
        f"Filled markers: on the Pareto front, no artifact that passes is both faster and {better}. "
        "Crosses: the artifact fails its checks. Up and left is better."
    )


def model_signs(models: Sequence[str]) -> list[tuple[str, str]]:
    """The marker of each model as a Unicode character, and the model; for the legend in the page."""
    return [(_MARKERS[marker], model) for model, marker in _model_markers(models).items()]


def _model_markers(models: Sequence[str]) -> dict[str, str]:
    """The matplotlib marker of each model, in the order of first appearance."""
    markers = tuple(_MARKERS)
    return {model: markers[index % len(markers)] for index, model in enumerate(dict.fromkeys(models))}
