"""Tests of detectors that select: their answers are compared as sets where the task says so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from deploytool import serde
from deploytool.data.golden import Edge, Golden
from deploytool.parity import detection_rows, edge_checks, metrics
from deploytool.results.report import Limits
from deploytool.spec import Model, Precision, Preprocessing, Task
from tests.tasks.detector_campaign import NOISE, tolerance
from tests.tasks.detector_faults import FAULTS, candidates, rounded, select
from tests.tasks.detector_models import Measured, measured

DETECTOR = Model("detector", "none", task=Task.DETECT)


@pytest.fixture(scope="module")
def subject() -> Measured:
    """A detector with a suppression, measured."""
    return measured(0, 0.5, side=64)


def test_fp16_answers_of_a_detector_pass_though_rows_move(subject: Measured) -> None:
    got = subject.answers(torch.float16)
    moved = np.abs(got["boxes"] - subject.reference["boxes"]).max(-1) > 1
    assert moved.sum() > 10
    assert not metrics.check(got, subject.reference, "FP64", subject.allowed.fp16, subject.tied.fp16).broken
    in_place = dataclasses.replace(subject.allowed.fp16, rows=None)
    assert metrics.check(got, subject.reference, "FP64", in_place, subject.tied.fp16).broken


def test_the_noise_is_that_of_rows_and_not_of_their_order(subject: Measured) -> None:
    assert all(limit.tolerance.max_error < 0.01 for limit in subject.allowed.fp16.parts)
    assert all(limit.tolerance.max_error < 1e-4 for limit in subject.allowed.fp32.parts)


@pytest.mark.parametrize("name", FAULTS)
def test_every_planted_fault_fails(name: str, subject: Measured) -> None:
    reach = {limit.part.output: limit.tolerance.max_error for limit in subject.allowed.fp16.parts}
    got = FAULTS[name](subject.answers(torch.float16), reach["boxes"], reach["scores"])
    assert metrics.check(got, subject.reference, "FP64", subject.allowed.fp16, subject.tied.fp16).broken


def test_ties_follow_the_rows_of_the_expected_answers(subject: Measured) -> None:
    """Two classes of one row are tied: it may have either, wherever the expected answers have it."""
    tied = {name: ends.copy() for name, ends in subject.tied.fp32.items()}
    tied["labels"][0, 0, 2], tied["labels"][1, 0, 2] = 0, 4
    order = np.arange(40)[::-1]
    expected = {name: array[:, order] for name, array in subject.reference.items()}
    got = {name: array.copy() for name, array in expected.items()}
    got["labels"][0, 37] = 4 - got["labels"][0, 37]
    check = metrics.check(got, expected, "FP64", subject.allowed.fp32, tied)
    (labels,) = [part for part in check.part_checks if part.part == "labels"]
    assert labels.parity.equal is not None
    assert (labels.parity.equal.tied, labels.parity.equal.wrong) == (1, 0)
    assert not labels.broken


def test_the_rows_are_part_of_the_tolerances_of_a_bundle(subject: Measured) -> None:
    again = serde.decode(Limits, serde.encode(subject.allowed.fp16))
    assert again.rows == subject.allowed.fp16.rows is not None
    without = {name: value for name, value in dict(serde.encode(subject.allowed.fp16)).items() if name != "rows"}  # type: ignore[arg-type]
    assert serde.decode(Limits, without).rows is None


def test_other_tasks_and_heads_before_a_selection_are_compared_in_place() -> None:
    selected = {"boxes": np.zeros((1, 9, 4)), "scores": np.zeros((1, 9)), "labels": np.zeros((1, 9), np.int64)}
    assert detection_rows.of_model(DETECTOR, selected) is not None
    assert detection_rows.of_model(dataclasses.replace(DETECTOR, task=None), selected) is None
    assert detection_rows.of_model(DETECTOR, {"pred_boxes": np.zeros((1, 9, 4)), "logits": np.zeros((1, 9, 3))}) is None
    assert detection_rows.of_model(DETECTOR, {"output0": np.zeros((1, 84, 8400))}) is None
    assert detection_rows.of_model(DETECTOR, {"logits": np.zeros((1, 10))}) is None


@pytest.mark.parametrize("precision", NOISE)
def test_answers_of_other_shapes_are_an_error(precision: str) -> None:
    expected = select(candidates(0, 2, 50, 0.1), 20)
    got = select(candidates(0, 2, 50, 0.1), 19)
    with pytest.raises(ValueError, match="shapes differ"):
        metrics.check(got, expected, "itself", tolerance(expected, precision))


def test_an_artifact_deviates_by_its_rows_and_not_by_their_order() -> None:
    all_of = candidates(0, 4, 200, 0.02)
    reference = select(all_of, 40)
    outputs, got = (select(rounded(all_of, seed, NOISE["fp16"] / 2, NOISE["fp16"]), 40) for seed in (1, 2))
    limits = tolerance(reference, "fp16")
    sample = Golden(np.zeros((4, 0, 0, 3), np.uint8), {}, outputs, reference, np.zeros(4), Preprocessing(), None)  # type: ignore[arg-type]
    assert not metrics.deviates(got, outputs, sample, limits)
    got["boxes"][0, 0] += 100
    assert metrics.deviates(got, outputs, sample, limits)


def test_an_edge_case_of_fp16_is_compared_with_its_classes(subject: Measured) -> None:
    noise = _noise(subject)
    edge = Edge("dark", True, {}, subject.reference, subject.reference)
    images = np.zeros((1, 0, 0, 3), np.uint8)
    sample = Golden(images, {}, subject.reference, subject.reference, np.zeros(6), Preprocessing(), noise)  # type: ignore[arg-type]
    got = subject.answers(torch.float16)
    check = edge_checks.check(got, edge, sample, subject.allowed, lambda _: subject.allowed, Precision.FP16)
    assert check is not None
    assert not check.broken
    assert "labels" in {part.part for part in check.part_checks}
    got["labels"] = (got["labels"] + 1) % 5
    failed = edge_checks.check(got, edge, sample, subject.allowed, lambda _: subject.allowed, Precision.FP16)
    assert failed is not None
    assert failed.broken


def _noise(subject: Measured) -> object:
    from deploytool.data.golden import Floor, Noise, Perturbation

    none = Floor(0.0, 0.0)
    parts = tuple(Perturbation(limit.part, none, none) for limit in subject.allowed.fp16.parts)
    return Noise(none, none, parts, subject.allowed.fp16.rows)


def test_equal_scores_make_an_edge_case_arbitrary(subject: Measured) -> None:
    rows = subject.allowed.fp16.rows
    assert not detection_rows.are_arbitrary(subject.reference, rows)
    equal = {**subject.reference, "scores": np.round(subject.reference["scores"], 2)}
    assert detection_rows.are_arbitrary(equal, rows)
    assert not detection_rows.are_arbitrary(equal, None)
