"""Tests that a network with one concatenated output and one with several outputs get the same check results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import deploytool
from deploytool.data import golden
from deploytool.parity import metrics
from tests.conftest import ROOT

OWN = f"{ROOT / 'tests' / 'user_models' / 'joined_heads.py'}"
BOXES = 4


def golden_data(out: Path, **arguments: bool | str) -> golden.Golden:
    reference = f"{OWN}:Heads"
    run = deploytool.export(reference, inputs=[(3, 16, 16)], arguments=arguments, to="onnx", quick=True, out=out)
    assert run.passed, run.error
    return golden.read(run.folder / "golden" / "golden.npz")


def check_fails(sample: golden.Golden, factor: float) -> bool:
    """Whether the check fails for the reference outputs with the scores scaled by `factor`."""
    outputs = {name: array.astype(np.float64) for name, array in sample.reference.items()}
    if len(outputs) > 1:
        outputs[list(outputs)[1]] *= factor
    else:
        (array,) = outputs.values()
        axis = array.shape.index(BOXES + 6)
        np.moveaxis(array, axis, 0)[BOXES:] *= factor
    return bool(metrics.check(outputs, sample.reference, "", metrics.tolerances(sample.noise, {}).fp32).broken)


@pytest.mark.parametrize("scales", ["300 1", "1e5 1"])
@pytest.mark.parametrize("form", ["maps", "rows", "columns"])
def test_small_scores_joined_with_large_boxes_are_checked_at_their_own_scale(
    tmp_path: Path, form: str, scales: str
) -> None:
    arguments = {"sizes": f"{BOXES} 6", "scales": scales, "form": form}
    joined = golden_data(tmp_path / "joined", **arguments)
    separate = golden_data(tmp_path / "separate", **arguments, separate=True)
    for factor, fails in ((1.0, False), (1.001, True), (2.0, True)):
        assert (check_fails(joined, factor), check_fails(separate, factor)) == (fails, fails), factor
