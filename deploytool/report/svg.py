"""A plot as SVG that takes its colours and its letters from the page it stands in, light or dark."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from deploytool.host import terminal

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # before it builds its list of fonts, and says so

import matplotlib as mpl  # noqa: E402  # only now: see above
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import NullLocator  # noqa: E402

INK, MUTED, RULE, ACCENT, BAD, PAPER = (f"#0{number}0b0c" for number in range(1, 7))  # stand for the page's own
_OF_THE_PAGE = {INK: "ink", MUTED: "muted", RULE: "rule", ACCENT: "accent", BAD: "bad", PAPER: "paper"}
WIDTH = 340.0  # points of a plot: what a phone shows without making its letters too small
_POINTS = 72.0  # an inch
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "deploytool",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "lines.solid_capstyle": "round",
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.color": RULE,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "xtick.minor.size": 0,
    "xtick.major.size": 3,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Plot:
    """A finished drawing: `svg` is to stand in a page, once under one name."""

    svg: str
    title: str
    caption: str


class Canvas:
    """A figure while it is drawn on; `done()` makes a plot of it."""

    def __init__(self, name: str, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width / _POINTS, height / _POINTS))
        self._name = f"plot-{name}"

    def axes(self, left: float, bottom: float, right: float, top: float) -> Axes:
        """Axes with these margins, in points."""
        width, height = (side * _POINTS for side in self.figure.get_size_inches())
        box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
        return self.figure.add_axes(box)

    def done(self, title: str, caption: str, told: str, *, elastic: bool = False) -> Plot:
        """The plot; `told` is what it shows, in words, for whoever does not see it.

        An `elastic` one fills whatever room it gets, and so may have no letters.
        """
        drawn = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # of a letter that our font lacks: the page's own has it
            self.figure.savefig(drawn, format="svg", metadata={"Date": None})
        svg = _settled(drawn.getvalue(), self._name, title, told)
        return Plot(svg.replace("<svg ", '<svg preserveAspectRatio="none" ', 1) if elastic else svg, title, caption)


@contextmanager
def canvas(name: str, width: float, height: float) -> Iterator[Canvas]:
    """A canvas of that size in points (a page shows them as pixels and more); its name is unique in the page."""
    with mpl.rc_context(_SETTINGS):
        yield Canvas(name, width, height)


def plain_log(axes: Axes) -> None:
    """Numbers one can read on a logarithmic axis, a few of them."""
    low, high = axes.get_xlim()
    ticks = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def words(text: str) -> str:
    """A text for a drawing: visible, and a dollar in it begins no formula."""
    return terminal.visible(text).replace("$", r"\$")


def _told(text: str) -> str:
    return escape(terminal.visible(text))


def _settled(drawn: str, name: str, title: str, told: str) -> str:
    """The SVG without its prologue, with ids and colours of the page, and with words for screen readers."""
    body = drawn[drawn.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'xlink:href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    for colour, word in _OF_THE_PAGE.items():
        body = body.replace(colour, f"var(--{word})")
    head, _, rest = body.partition(">")
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    width = float(box.split()[2])
    labels = f'<title id="{name}-title">{_told(title)}</title><desc id="{name}-desc">{_told(told)}</desc>'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {box} style="--width: {width:.0f}px" role="img"'
    return f'{start} aria-labelledby="{name}-title {name}-desc">{labels}{rest}'.replace("\n", "")
