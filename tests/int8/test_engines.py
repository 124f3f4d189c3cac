"""The rows of the table of INT8 engines, and an engine of a foreign model."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploytool.backends.tensorrt_estimate import BuildEstimate
from deploytool.precision.int8.macs import Int8Share
from deploytool.spec import Precision
from tests.int8 import engines
from tests.int8.engines import Built


def test_a_row_has_both_engines_and_the_advice() -> None:
    half, int8 = BuildEstimate(30, 2, 8_000_000, 4_000_000), BuildEstimate(40, 3, 9_500_000, 2_000_000)
    built = Built("net", Int8Share(95, 100, 200), Int8Share(90, 100, 200), (), int8, half, ("default", "rtx20"))
    assert built.row == (
        "| net | 95.0% | 47.5% | 90.0% | none | 30 → 40 | 2 → 3 | 8.0 → 9.5 | 4.0 → 2.0 | default, rtx20 "
        "| FP16 until measured |"
    )
    *_, names, line = engines.header()
    assert names.count("|") == line.count("|") == built.row.count("|")


@pytest.mark.integration
@pytest.mark.parametrize("precision", engines.FORMS)
def test_a_foreign_model_is_built(precision: Precision, tmp_path: Path) -> None:
    (model,) = engines.models(["residual"])
    built = engines.measure(model, tmp_path / "run", (), precision)
    assert built.placed.of_allowed == 1.0
    assert built.run.of_allowed >= 0.95
    assert not built.refused
    assert built.narrow.kernels > 0
    assert built.half.kernels > 0
