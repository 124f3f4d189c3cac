"""Compares mAP with pycocotools on made-up sets: `python -m tests.metrics.coco`.

The sets have crowds, images without objects or detections, equal scores, equal boxes, classes without objects, and more
than 100 detections of a class in an image. The largest difference is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Sequence

import numpy as np

from deploytool.metrics import average_precision
from deploytool.tasks.annotations import Boxes
from deploytool.tasks.detections import Detections

Set = tuple[list[Detections], list[Boxes]]


def boxes(rng: np.random.Generator, count: int, whole: bool) -> average_precision.Floats:
    corner, size = rng.uniform(0, 60, (count, 2)), rng.uniform(2, 40, (count, 2))
    if whole:
        corner, size = corner.round(), size.round()
    return np.concatenate((corner, corner + size), axis=1)


def image(rng: np.random.Generator, classes: int, whole: bool, many: bool) -> tuple[Detections, Boxes]:
    """Objects, and detections near most of them and elsewhere."""
    count = int(rng.integers(0, 9)) * int(rng.random() < 0.8)
    target = Boxes(boxes(rng, count, whole), rng.integers(0, classes, count), rng.random(count) < 0.15)
    near = rng.permutation(np.repeat(np.arange(count), 2))[: int(rng.integers(0, 2 * count + 1))]
    noise = rng.normal(0, rng.choice([0.0, 0.5, 2.0]), (len(near), 4))
    moved = target.boxes[near] + (noise.round() if whole else noise)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    elsewhere = int(rng.integers(0, 6)) + (130 if many else 0)
    found = np.concatenate((moved, boxes(rng, elsewhere, whole)))
    guesses = np.where(rng.random(len(near)) < 0.9, target.classes[near], rng.integers(0, classes + 1, len(near)))
    numbers = np.concatenate((guesses, rng.integers(0, 1 if many else classes + 1, elsewhere)))
    scores = rng.random(len(found)).round(int(rng.integers(1, 4)))  # few decimals: many equal scores
    order = np.argsort(-scores, kind="stable")
    return Detections(found[order], scores[order], numbers[order]), target


def made_up(seed: int) -> Set:
    """A set of 1 to 12 images, with an object that is no crowd in at least one."""
    rng = np.random.default_rng(seed)
    classes, whole = int(rng.integers(1, 6)), bool(rng.random() < 0.5)
    pairs = [image(rng, classes, whole, rng.random() < 0.1) for _ in range(int(rng.integers(1, 13)))]
    if all(target.crowd.all() for _, target in pairs):
        return made_up(seed + 1_000_000)
    return [answer for answer, _ in pairs], [target for _, target in pairs]


def as_coco(boxes: average_precision.Floats) -> list[list[float]]:
    return [[float(x1), float(y1), float(x2 - x1), float(y2 - y1)] for x1, y1, x2, y2 in boxes]


def official(answers: Sequence[Detections], targets: Sequence[Boxes]) -> float:
    """The mAP by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    objects = [
        {"image_id": number, "category_id": int(kind), "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd)}
        for number, target in enumerate(targets)
        for box, kind, crowd in zip(as_coco(target.boxes), target.classes, target.crowd, strict=True)
    ]
    found = [
        {"image_id": number, "category_id": int(kind), "bbox": box, "score": float(score)}
        for number, answer in enumerate(answers)
        for box, kind, score in zip(as_coco(answer.boxes), answer.classes, answer.scores, strict=True)
    ]
    numbers = [one.classes for one in answers] + [one.classes for one in targets]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(len(targets))],
            "annotations": [{"id": 1 + number, **entry} for number, entry in enumerate(objects)],
            "categories": [{"id": int(kind)} for kind in np.unique(np.concatenate(numbers))],
        }
        truth.createIndex()
        if not found:
            return 0.0
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def difference(seed: int) -> float:
    """How far the two results for the made-up set of a seed are apart."""
    answers, targets = made_up(seed)
    return abs(average_precision.value(answers, targets) - official(answers, targets))


def main() -> None:
    """Prints the largest difference, and the sets beyond 1e-6."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=1000)
    count = parser.parse_args().sets
    differences = [difference(seed) for seed in range(count)]
    beyond = [seed for seed, found in enumerate(differences) if found > 1e-6]
    print(f"{count} sets: largest difference {max(differences):.2e}; beyond 1e-6: {beyond or 'none'}")


if __name__ == "__main__":
    main()
