"""Tests of aligned detections: rows go along, and only what rounding explains is replaced."""

from __future__ import annotations

import numpy as np
import pytest

from deploytool.spec import Decoding
from deploytool.tasks import align
from deploytool.tasks.replacements import Reach
from deploytool.tasks.rows import DetectionRows, RowValues
from tests.tasks import detector_faults as drawn

BOX, SCORE = 0.5, 1e-3  # tolerances, in pixels and as a share of 1
Answers = dict[str, np.ndarray]


def _rows(nms: float = 0.0, swapped: float = 0.0, threshold: float = 0.05) -> DetectionRows:
    values = RowValues("boxes", (0, 4)), RowValues("scores"), RowValues("labels")
    outputs = ("boxes", "scores", "labels", "masks")
    return DetectionRows(*values, outputs, Decoding(nms=nms, threshold=threshold), swapped)


def _answers(*rows: tuple[float, float, float, int]) -> Answers:
    """One case of boxes 40 pixels wide, 20 high: left and top, score and class."""
    left, top, scores, labels = (np.array(values, float) for values in zip(*rows, strict=True))
    boxes = np.stack([left, top, left + 40, top + 20], -1)
    boxes[np.array(labels) < 0] = 0
    return {"boxes": boxes[None], "scores": scores[None], "labels": labels[None].astype(np.int64)}


def _align(got: Answers, expected: Answers, rows: DetectionRows) -> align.Aligned:
    reach = Reach(np.full(expected["boxes"].shape, BOX), np.full(expected["scores"].shape, SCORE))
    return align.align(got, expected, rows, reach)


EXPECTED = _answers(*((60.0 * (row % 8), 40.0 * (row // 8), 0.9 - 0.02 * row, row % 3) for row in range(16)))


def _changed(**rows: tuple[float, float, float, int]) -> Answers:
    """The expected answers with other rows at the places `r0`, `r1`, …"""
    changed = {name: array.copy() for name, array in EXPECTED.items()}
    for place, row in rows.items():
        for name, array in _answers(row).items():
            changed[name][0, int(place[1:])] = array[0, 0]
    return changed


def test_rows_return_to_their_places_with_all_outputs() -> None:
    order = np.random.default_rng(0).permutation(16)
    masks = np.arange(16 * 6).reshape(1, 16, 2, 3)
    got = {name: array[:, order] for name, array in {**EXPECTED, "masks": masks}.items()} | {"count": np.array([16])}
    aligned = _align(got, {**EXPECTED, "masks": masks, "count": np.array([16])}, _rows())
    for name, array in {**EXPECTED, "masks": masks, "count": np.array([16])}.items():
        np.testing.assert_array_equal(aligned.answers[name], array)
    assert aligned.moved == int((order != np.arange(16)).sum()) > 8
    assert aligned.replaced == 0


def test_cases_beyond_those_of_every_output_stay_as_they_are() -> None:
    got = {name: np.concatenate([array, array[:, ::-1]]) for name, array in EXPECTED.items()}
    got["labels"] = got["labels"][:1]
    np.testing.assert_array_equal(_align(got, got, _rows()).answers["boxes"], got["boxes"])


@pytest.mark.parametrize("score", [0.6, 0.6 - 1.9 * SCORE, 0.6 + 1.9 * SCORE])
def test_the_last_row_may_be_another_of_nearly_its_score(score: float) -> None:
    aligned = _align(_changed(r15=(7.0, 300.0, score, 1)), EXPECTED, _rows())
    assert aligned.replaced == 1
    np.testing.assert_array_equal(aligned.answers["boxes"], EXPECTED["boxes"])
    np.testing.assert_array_equal(aligned.answers["labels"], EXPECTED["labels"])


@pytest.mark.parametrize(
    "rows",
    [
        {"r15": (7.0, 300.0, 0.6 - 2.1 * SCORE, 1)},  # below the cut
        {"r15": (7.0, 300.0, 0.6 + 2.1 * SCORE, 1)},  # above it: the reference has no such row
        {"r5": (7.0, 300.0, 0.6, 1)},  # a clear row is lost
        {"r5": (60.0 * 5 + 4 * BOX, 0.0, 0.8, 2)},  # its box moved
        {"r15": (0.0, 0.0, 0.9, 0)},  # the best row twice
        {"r15": (0.0, 0.0, 0.0, -1)},  # the last row is missing, and its score is far above the threshold
    ],
)
def test_other_rows_are_not_replaced(rows: dict[str, tuple[float, float, float, int]]) -> None:
    got = _changed(**rows)
    aligned = _align(got, EXPECTED, _rows(nms=0.5))
    assert aligned.replaced == 0
    np.testing.assert_array_equal(aligned.answers["scores"], got["scores"])
    np.testing.assert_array_equal(aligned.answers["boxes"], got["boxes"])


def test_a_row_at_the_threshold_may_be_missing_where_there_is_room() -> None:
    padding = (0.0, 0.0, 0.0, -1)
    expected = _changed(r14=padding, r15=padding, r13=(0.0, 200.0, 0.05 + SCORE, 1))
    got = _changed(r14=padding, r15=padding, r13=padding)
    assert _align(got, expected, _rows()).replaced == 1
    assert _align(expected, got, _rows()).replaced == 1
    assert _align(got, expected, _rows(threshold=0.04)).replaced == 0


def test_more_than_a_quarter_of_all_rows_is_not_replaced() -> None:
    expected = {**EXPECTED, "scores": np.full((1, 16), 0.6)}
    got = {name: array.copy() for name, array in expected.items()}
    got["boxes"][0, 12:] += 300
    assert _align(got, expected, _rows()).replaced == 4
    got["boxes"][0, 11:] += 300
    assert _align(got, expected, _rows()).replaced == 0


def test_an_overlap_at_the_limit_of_the_suppression_is_explained() -> None:
    """Boxes 40 × 20 that are shifted by 40/3 pixels overlap by exactly one half."""
    near, farther = 40 / 3 - BOX / 4, 40 / 3 - 8 * BOX
    expected, got = _changed(r15=(0.0, 0.0, 0.0, -1)), _changed(r15=(near, 0.0, 0.7, 0))
    assert _align(got, expected, _rows(nms=0.5)).replaced == 1
    assert _align(expected, got, _rows(nms=0.5)).replaced == 1
    assert _align(got, expected, _rows(nms=0.4)).replaced == 0
    assert _align(got, expected, _rows()).replaced == 0
    assert _align(_changed(r15=(farther, 0.0, 0.7, 0)), expected, _rows(nms=0.5)).replaced == 0
    assert _align(_changed(r15=(near, 0.0, 0.7, 1)), expected, _rows(nms=0.5)).replaced == 0


def test_what_an_explained_row_suppresses_is_explained() -> None:
    """A row at the limit comes in, and hides another one that overlaps it by more."""
    near = 40 / 3 - BOX / 4
    expected = _changed(r15=(near + 6, 3.0, 0.7, 0))
    assert _align(_changed(r15=(near, 0.0, 0.75, 0)), expected, _rows(nms=0.5)).replaced == 1
    assert _align(_changed(r15=(near, 0.0, 0.6, 0)), expected, _rows(nms=0.5)).replaced == 0


def test_swaps_of_equal_scores_are_limited_by_those_of_the_model() -> None:
    got = _changed(r7=(420.0 + 5, 3.0, 0.76 + SCORE / 2, 1))
    assert _align(got, EXPECTED, _rows(nms=0.5)).replaced == 0
    aligned = _align(got, EXPECTED, _rows(nms=0.5, swapped=1 / 16))
    assert (aligned.replaced, aligned.swapped) == (1, 1 / 16)
    unequal = _changed(r7=(420.0 + 5, 3.0, 0.76 + 3 * SCORE, 1))
    assert _align(unequal, EXPECTED, _rows(nms=0.5, swapped=1 / 16)).replaced == 0


def test_a_value_that_is_not_a_number_is_never_replaced() -> None:
    got = _changed()
    got["boxes"][0, 15, 1] = np.nan
    got["scores"][0, 3] = np.inf
    answers = _align(got, EXPECTED, _rows(nms=0.5)).answers
    assert int((~np.isfinite(answers["scores"])).sum()) == 1


@pytest.mark.parametrize("spread", [0.3, 0.002])
def test_matching_is_the_nearest_pair_first(spread: float) -> None:
    """Against a plain loop over all pairs in the order of their distance."""
    candidates = drawn.candidates(3, 1, 60, spread)
    got, expected = (drawn.select(drawn.rounded(candidates, seed, 1e-3, 1e-3), 40) for seed in (1, 2))
    distances = np.abs(got["boxes"][0][:, None] - expected["boxes"][0][None]).max(-1) / np.abs(expected["boxes"]).max()
    distances += np.abs(got["scores"][0][:, None] - expected["scores"][0][None]) / expected["scores"].max()
    distances += 8 * (got["labels"][0][:, None] != expected["labels"][0][None])
    wanted = np.full(40, -1)
    taken = set[int]()
    for row, column in sorted(np.ndindex(40, 40), key=lambda pair: distances[pair]):
        if row not in taken and wanted[column] < 0:
            wanted[column] = row
            taken.add(row)
    assert align.orders(got, expected, _rows())[0].tolist() == wanted.tolist()
    assert (wanted != np.arange(40)).sum() >= (20 if spread < 0.01 else 0)


def test_a_moved_box_is_no_replacement_though_it_overlaps_another_at_the_limit() -> None:
    """Box and moved box overlap the best row by about one half, and so either might be suppressed."""
    near = 40 / 3
    expected, got = _changed(r15=(near, 0.0, 0.7, 0)), _changed(r15=(near + 3 * BOX, 0.0, 0.7, 0))
    wide = Reach(np.full((1, 16, 4), BOX), np.full((1, 16), SCORE))
    assert align.align(got, expected, _rows(nms=0.5), wide).replaced == 0
