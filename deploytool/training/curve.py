"""Draws the learning curve (loss and accuracy over the epochs) as a self-contained SVG."""

from __future__ import annotations

from collections.abc import Sequence

from deploytool.training.recipe import Epoch

_WIDTH, _HEIGHT, _MARGIN = 360, 220, 50  # of one panel, in pixels
_COLOURS = {"train": "#0b6e99", "validation": "#d9730d"}


def draw(history: Sequence[Epoch]) -> str:
    """The SVG of a training: loss on the left, accuracy on the right."""
    last = history[-1].epoch
    losses = {
        "train": [record.train.loss for record in history],
        "validation": [record.validation.loss for record in history],
    }
    accuracies = {
        "train": [record.train.accuracy for record in history],
        "validation": [record.validation.accuracy for record in history],
    }
    highest = max(map(max, losses.values())) or 1.0
    panels = _panel("loss", losses, highest, last, left=0), _panel("accuracy", accuracies, 1.0, last, left=_WIDTH)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(panels)
        + "\n</svg>\n"
    )


def _panel(title: str, curves: dict[str, list[float]], highest: float, last: int, left: int) -> str:
    """One diagram from 0 to `highest`: frame, axis labels, curves and legend; `left` is its offset in pixels."""
    width, height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    parts = [
        f'<g transform="translate({left + _MARGIN} {_MARGIN})">',
        f'<rect width="{width}" height="{height}" fill="none" stroke="#999"/>',
        f'<text y="-8" font-weight="bold">{title}</text>',
        f'<text x="-6" y="{height}" text-anchor="end">0</text>',
        f'<text x="-6" y="12" text-anchor="end">{highest:.3g}</text>',
        f'<text y="{height + 16}">1</text>',
        f'<text x="{width}" y="{height + 16}" text-anchor="end">epoch {last}</text>',
    ]
    for index, (name, values) in enumerate(curves.items()):
        colour = _COLOURS[name]
        xs = [width * i / max(1, len(values) - 1) for i in range(len(values))]
        points = " ".join(f"{x:.1f},{height * (1 - y / highest):.1f}" for x, y in zip(xs, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{width}" y="{-20 + 14 * index}" text-anchor="end" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</g>"])
