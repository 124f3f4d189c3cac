"""Measures the interval of a difference in mAP and mIoU: `python -m tests.metrics.coverage_sets`.

The true difference in mAP is that of pycocotools on many images, in mIoU the one that follows from the rates at which
pixels are wrong. Printed is how often the interval contains it, and on which side it does not.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from deploytool.metrics import catalog
from deploytool.tasks.annotations import Boxes
from deploytool.tasks.detections import Detections
from tests.metrics import coco

Draw = Callable[[np.random.Generator], tuple[Any, Any, Any]]  # the artifact's answer, the source's, and the target

SHARES = np.array([0.6, 0.37, 0.03])  # of the classes
WRONG = {"artifact": 0.13, "source": 0.10}  # of the pixels


def picture(rng: np.random.Generator) -> tuple[Detections, Detections, Boxes]:
    """Up to 4 objects, of which a detector finds 4 of 5; in 4 % of images, the artifact finds none."""
    count = int(rng.integers(1, 5))
    target = Boxes(coco.boxes(rng, count, whole=False), rng.choice(3, count, p=SHARES), np.zeros(count, bool))
    near, elsewhere = np.flatnonzero(rng.random(count) < 0.8), int(rng.poisson(1))
    moved = target.boxes[near] + rng.normal(0, 1, (len(near), 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    boxes = np.concatenate((moved, coco.boxes(rng, elsewhere, whole=False)))
    numbers = np.concatenate((target.classes[near], rng.choice(3, elsewhere, p=SHARES)))
    scores = np.concatenate((rng.uniform(0.3, 1, len(near)), rng.uniform(0.05, 0.7, elsewhere)))
    source = best_first(boxes, scores, numbers)
    noisy = best_first(boxes + rng.normal(0, 0.2, (len(boxes), 4)), scores + rng.normal(0, 0.01, len(boxes)), numbers)
    kept = 0 if rng.random() < 0.04 else len(boxes)
    return Detections(noisy.boxes[:kept], noisy.scores[:kept], noisy.classes[:kept]), source, target


def best_first(boxes: catalog.Floats, scores: catalog.Floats, numbers: Any) -> Detections:
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], numbers[order])


def class_maps(rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """A map of blocks; a wrong pixel has a class by the shares, and the images differ in how many are wrong."""
    target = np.kron(rng.choice(3, (4, 4), p=SHARES), np.ones((4, 4), int))
    other, chance, ease = rng.choice(3, target.shape, p=SHARES), rng.random(target.shape), rng.uniform(0, 2)
    artifact, source = (np.where(chance < ease * rate, other, target) for rate in WRONG.values())
    return artifact, source, target


def true_miou(rate: float) -> float:
    """The mIoU where this share of the pixels is drawn anew by the shares of the classes."""
    both = SHARES * (1 - rate + rate * SHARES)
    return float((both / (2 * SHARES - both)).mean())


def true_map(images: int) -> float:
    """The difference in mAP on many images."""
    rng = np.random.default_rng(99)
    artifact, source, targets = zip(*[picture(rng) for _ in range(images)], strict=True)
    return coco.official(artifact, targets) - coco.official(source, targets)


def misses(name: str, draw: Draw, truth: float, images: int, trials: int) -> tuple[float, float]:
    """How often the interval lies above and below the truth."""
    rng = np.random.default_rng(images)
    counts = np.zeros(2)
    for trial in range(trials):
        artifact, source, targets = zip(*[draw(rng) for _ in range(images)], strict=True)
        found = catalog.measure(name, artifact, source, targets, -truth, trial).difference
        counts += (found.low > truth, found.high < truth)
    return float(counts[0]) / trials, float(counts[1]) / trials


def main() -> None:
    """Prints the coverage of both metrics for 30, 100 and 400 images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--images", type=int, default=30_000)
    asked = parser.parse_args()
    cases: tuple[tuple[str, Draw, float], ...] = (
        ("miou", class_maps, true_miou(WRONG["artifact"]) - true_miou(WRONG["source"])),
        ("map", picture, true_map(asked.images)),
    )
    for name, draw, truth in cases:
        for images in (30, 100, 400):
            above, below = misses(name, draw, truth, images, asked.trials)
            line = f"{name}, true difference {truth:+.4f}, n={images:4}: covered {1 - above - below:.1%}"
            print(f"{line}; not worse at the margin {above:.1%}, worse {below:.1%}", flush=True)


if __name__ == "__main__":
    main()
