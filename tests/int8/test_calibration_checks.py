from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from deploytool.precision.int8 import data_checks
from deploytool.precision.int8.calibration import Method
from deploytool.precision.int8.calibration_fault import SENTENCES, CalibrationFault
from deploytool.spec import Preprocessing
from tests.int8 import nets, planted_calibration
from tests.int8.calibration_faults import findings
from tests.int8.planted_calibration import PLANTED, Calibration


@cache
def clean(net: str = "residual", form: str = "u8s8") -> Calibration:
    return planted_calibration.clean(net, 0, form, Method.PERCENTILE)


@pytest.mark.parametrize(("net", "form"), [("residual", "u8s8"), ("inverted", "fused")])
def test_nothing_is_found_in_a_calibration_without_a_fault(net: str, form: str) -> None:
    assert findings(clean(net, form)) == ()


@pytest.mark.parametrize("fault", CalibrationFault)
def test_a_planted_fault_is_named(fault: CalibrationFault) -> None:
    variants = list(PLANTED[fault](clean()))
    assert variants
    for faulty in variants:
        assert fault in {finding.fault for finding in findings(faulty)}


def test_a_missing_q_is_named_where_convolutions_fuse_additions() -> None:
    variants = list(planted_calibration.missing_residual_q(clean("inverted", "fused")))
    assert len(variants) == 2  # one for each addition: the other input is that of a convolution
    for faulty in variants:
        assert {finding.fault for finding in findings(faulty)} == {CalibrationFault.MISSING_RESIDUAL_Q}


def test_every_fault_has_one_sentence() -> None:
    assert set(SENTENCES) == set(CalibrationFault)
    assert all(sentence.count(".") == 1 and sentence.endswith(".") for sentence in SENTENCES.values())


def test_cases_of_other_data_than_the_tables_are_stale() -> None:
    other = replace(clean(), cases=nets.pictures(20, 4242))
    assert {finding.fault for finding in findings(other)} == {CalibrationFault.STALE_RANGES}


def named(calibration: object, golden: object) -> list[CalibrationFault]:
    cases, reference = ({"x": np.asarray(each, np.float32)} for each in (calibration, golden))
    return [finding.fault for finding in data_checks.find(cases, reference, Preprocessing())]


def test_inputs_that_are_no_pictures_are_compared_by_their_spread() -> None:
    rng = np.random.default_rng(0)
    golden = rng.normal(2.0, 1.0, (12, 5))
    assert named(rng.normal(2.2, 1.2, (40, 5)), golden) == []
    assert named(rng.normal(200.0, 100.0, (40, 5)), golden) == [CalibrationFault.WRONG_NORMALISATION]
    assert named(rng.normal(-9.0, 1.0, (40, 5)), golden) == [CalibrationFault.WRONG_NORMALISATION]
    assert named(np.zeros((40, 5)), golden) == [CalibrationFault.ZEROS]


def test_noise_is_told_from_signals_by_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    signals = np.cumsum(rng.normal(size=(52, 400)), 1)
    assert named(signals[12:], signals[:12]) == []
    assert named(rng.normal(0, 15, (40, 400)), signals[:12]) == [CalibrationFault.RANDOM_DATA]
    assert named(rng.normal(size=(40, 400)), rng.normal(size=(12, 400))) == []


def test_constant_golden_cases_say_nothing_about_zeros() -> None:
    assert named(np.ones((40, 5)), np.ones((12, 5))) == []
