"""Answers of a detector as rounding may change them, and as faults do; computed without the product's code.

A case has many candidates of which the best are selected. Rounding moves the boxes and scores of all candidates before
the selection, so that rows change places and the last ones are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Answers = dict[str, npt.NDArray[np.float64]]
Fault = Callable[[Answers, float, float], Answers]

SIDE, CLASSES = 640.0, 6


def candidates(seed: int, cases: int, count: int, spread: float) -> Answers:
    """Boxes, scores and labels of all candidates; with a small `spread` scores are nearly equal."""
    drawn = np.random.default_rng(seed)
    centres, sizes = drawn.uniform(60, SIDE - 60, (cases, count, 2)), drawn.uniform(20, 100, (cases, count, 2))
    return {
        "boxes": np.concatenate([centres - sizes / 2, centres + sizes / 2], -1),
        "scores": 0.6 + spread * drawn.uniform(-1, 1, (cases, count)),
        "labels": drawn.integers(0, CLASSES, (cases, count)).astype(np.float64),
    }


def select(all_of: Answers, top: int) -> Answers:
    """The best rows of each case, by falling score."""
    order = np.argsort(-all_of["scores"], axis=1, kind="stable")[:, :top]
    return {
        name: np.take_along_axis(array, order if array.ndim == 2 else order[..., None], 1)
        for name, array in all_of.items()
    }


def rounded(all_of: Answers, seed: int, boxes: float, scores: float) -> Answers:
    """The candidates with errors up to these, relative to the largest coordinate and score."""
    drawn, moved = np.random.default_rng(seed), dict(all_of)
    for name, share in (("boxes", boxes), ("scores", scores)):
        size = np.abs(all_of[name]).max()
        moved[name] = all_of[name] + share * size * drawn.uniform(-1, 1, all_of[name].shape)
    return moved


def _one_box_moved(got: Answers, boxes: float, scores: float) -> Answers:
    changed = {name: array.copy() for name, array in got.items()}
    changed["boxes"][0, 0] += 4 * boxes * np.abs(got["boxes"][0]).max()
    return changed


def _class_changed(got: Answers, boxes: float, scores: float) -> Answers:
    changed = {name: array.copy() for name, array in got.items()}
    changed["labels"][0, 0] = (changed["labels"][0, 0] + 1) % CLASSES
    return changed


def _best_dropped(got: Answers, boxes: float, scores: float) -> Answers:
    """The best row is lost, the others move up, and a new last one comes in."""
    changed = {name: np.roll(array, -1, axis=1) for name, array in got.items()}
    for name, array in changed.items():
        array[1:] = got[name][1:]
    changed["boxes"][0, -1] = [10, 10, 50, 50]
    changed["scores"][0, -1] = got["scores"][0, -1] * (1 - scores / 4)
    return changed


def _scores_swapped(got: Answers, boxes: float, scores: float) -> Answers:
    changed = {name: array.copy() for name, array in got.items()}
    changed["scores"][0, [0, -1]] = got["scores"][0, [-1, 0]]
    return changed


def _rows_duplicated(got: Answers, boxes: float, scores: float) -> Answers:
    changed = {name: array.copy() for name, array in got.items()}
    for array in changed.values():
        array[:, 1] = array[:, 0]
    return changed


def _other_format(got: Answers, boxes: float, scores: float) -> Answers:
    corners = got["boxes"]
    centres, sizes = (corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]
    return {**got, "boxes": np.concatenate([centres, sizes], -1)}


def _boxes_shifted(got: Answers, boxes: float, scores: float) -> Answers:
    """The boxes of each row are those of the next one."""
    return {**got, "boxes": np.roll(got["boxes"], 1, axis=1)}


def _all_empty(got: Answers, boxes: float, scores: float) -> Answers:
    return {name: np.zeros_like(array) for name, array in got.items()}


def _one_score_moved(got: Answers, boxes: float, scores: float) -> Answers:
    changed = {name: array.copy() for name, array in got.items()}
    changed["scores"][0, 0] *= 1 - 4 * scores
    return changed


def _not_finite(got: Answers, boxes: float, scores: float) -> Answers:
    changed = {name: array.copy() for name, array in got.items()}
    changed["boxes"][0, 3, 1] = np.nan
    return changed


FAULTS: Mapping[str, Fault] = {  # of answers, and the tolerances of boxes and scores
    "one box moved by four times the tolerance": _one_box_moved,
    "one score moved by four times the tolerance": _one_score_moved,
    "one class changed": _class_changed,
    "the best detection dropped": _best_dropped,
    "the scores of two rows swapped": _scores_swapped,
    "rows duplicated": _rows_duplicated,
    "boxes in another format": _other_format,
    "boxes of the next row": _boxes_shifted,
    "no detection at all": _all_empty,
    "a coordinate that is not a number": _not_finite,
}
