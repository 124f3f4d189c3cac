"""The drawing of several runs: every artifact by latency and fidelity, and the front that nothing beats in both."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import NullLocator

from deploytool.report.rows import Point
from deploytool.report.svg import ACCENT, BAD, MUTED, PAPER, WIDTH, Plot, canvas, plain_log, words


def pareto(points: Sequence[Point], vertical: str, number: int, *, logarithmic: bool) -> Plot:
    """Every measured artifact by latency and by how right it is, and the front that nothing beats in both."""
    with canvas(f"pareto{number}", WIDTH, 280) as paper:
        axes = paper.axes(56, 42, 12, 14)
        axes.set_xscale("log")
        if logarithmic:
            axes.set_yscale("log")
            axes.invert_yaxis()  # the better, the higher
        best = [point for point in points if point.front]
        front = [(each.latency, each.right) for each in best]
        axes.plot([x for x, _ in front], [y for _, y in front], color=ACCENT, linewidth=1.2, alpha=0.5)
        for place, model in enumerate(dict.fromkeys(point.model for point in points)):
            mine = [point for point in points if point.model == model]
            for each in mine:
                face = ACCENT if each.front else PAPER
                edge = ACCENT if each.held else BAD
                sign = _MARKS[place % len(_MARKS)] if each.held else "x"
                axes.plot([each.latency], [each.right], sign, markersize=7.5, color=face, markeredgecolor=edge)
        named = {point.model: point for point in reversed(best)}
        for point in named.values():
            axes.annotate(
                words(point.model), (point.latency, point.right), (-4, 9), textcoords="offset points", fontsize=9.5
            )
        axes.margins(0.12)
        axes.grid(visible=True)
        plain_log(axes)
        if logarithmic:
            axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("latency of one batch, milliseconds")
        axes.set_ylabel(vertical, color=MUTED)
        told = "On the front: " + "; ".join(f"{each.label} at {each.latency:.2f} ms" for each in best)
        return paper.done("Latency and fidelity", PARETO, told)


PARETO = (
    "Filled: nothing that holds is both faster and nearer to its source. A cross fails its checks. "
    "Up and left is better."
)
_MARKS = "osD^vP*hX<>"


def marks(models: Sequence[str]) -> list[tuple[str, str]]:
    """The sign of each model in a Pareto plot, in letters."""
    signs = dict(zip("osD^vP*hX<>", "●■◆▲▼✚★⬢✖◀▶", strict=True))
    return [(signs[_MARKS[place % len(_MARKS)]], model) for place, model in enumerate(models)]
