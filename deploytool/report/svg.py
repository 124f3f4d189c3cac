"""Makes SVG plots that take their colours and fonts from the surrounding page, in light and dark mode."""

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

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # silences the message about its font cache

import matplotlib as mpl  # noqa: E402  # after the logger is configured
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import NullLocator  # noqa: E402

INK, MUTED, RULE, ACCENT, BAD, PAPER = (
    f"#0{number}0b0c" for number in range(1, 7)
)  # placeholders, replaced by CSS variables
_CSS_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", ACCENT: "accent", BAD: "bad", PAPER: "paper"}
WIDTH = 340.0  # points: fits the screen of a phone with readable labels
_POINTS = 72.0  # per inch
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
    """A finished plot; `svg` can be embedded in a page once, because its ids contain the name of the plot."""

    svg: str
    title: str
    caption: str


class Canvas:
    """A figure to draw on; `finish()` turns it into a plot."""

    def __init__(self, name: str, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width / _POINTS, height / _POINTS))
        self._name = f"plot-{name}"

    def axes(self, left: float, bottom: float, right: float, top: float) -> Axes:
        """New axes with these margins in points."""
        width, height = (side * _POINTS for side in self.figure.get_size_inches())
        box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
        return self.figure.add_axes(box)

    def finish(self, title: str, caption: str, description: str, *, elastic: bool = False) -> Plot:
        """The finished plot; `description` is its content as text, for screen readers.

        An `elastic` plot stretches to the available width, and so must not contain text.
        """
        buffer = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # missing in matplotlib's font; the page's font is used
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        svg = _embed(buffer.getvalue(), self._name, title, description)
        return Plot(svg.replace("<svg ", '<svg preserveAspectRatio="none" ', 1) if elastic else svg, title, caption)


@contextmanager
def canvas(name: str, width: float, height: float) -> Iterator[Canvas]:
    """A canvas with width and height in points; `name` must be unique in the page."""
    with mpl.rc_context(_SETTINGS):
        yield Canvas(name, width, height)


def readable_log_ticks(axes: Axes) -> None:
    """Sets the ticks of a logarithmic x axis to 1, 2 and 5 times powers of ten, as plain numbers."""
    ticks = _log_ticks(*axes.get_xlim())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def vertical_log_ticks(axes: Axes) -> None:
    """Sets the ticks of a logarithmic y axis to powers of ten, and within two decades also to 2 and 5 times them."""
    low, high = sorted(axes.get_ylim())
    ticks = _log_ticks(low, high)
    if high > 100 * low:
        ticks = [tick for tick in ticks if f"{tick:e}".startswith("1.000000e")]
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_yticks(ticks, [f"{tick:g}" if tick >= 0.01 else f"{tick:.0e}" for tick in ticks])


def _log_ticks(low: float, high: float) -> list[float]:
    return [tick for e in range(-10, 7) for m in (1, 2, 5) if low <= (tick := float(f"{m}e{e}")) <= high]


def plot_text(text: str) -> str:
    """Text that is safe in a plot: without control characters, and with dollar signs that start no formula."""
    return terminal.visible(text).replace("$", r"\$")


def _embed(drawing: str, name: str, title: str, description: str) -> str:
    """The SVG element alone, with unique ids, CSS variables as colours, and a title and description."""
    body = drawing[drawing.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'xlink:href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    for colour, variable in _CSS_VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    head, _, rest = body.partition(">")
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    width = float(box.split()[2])
    labels = f'<title id="{name}-title">{_escape(title)}</title><desc id="{name}-desc">{_escape(description)}</desc>'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {box} style="--width: {width:.0f}px" role="img"'
    return f'{start} aria-labelledby="{name}-title {name}-desc">{labels}{rest}'.replace("\n", "")


def _escape(text: str) -> str:
    return escape(terminal.visible(text))
