"""A network with one joined output and the same with several outputs get the same verdict, sound or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import deploytool
from deploytool.data import golden
from deploytool.parity import metrics
from tests.conftest import ROOT

OWN = f"{ROOT / 'tests' / 'user_models' / 'heads.py'}"
BOXES = 4


def recorded(out: Path, **arguments: bool | str) -> golden.Golden:
    reference = f"{OWN}:Heads"
    run = deploytool.export(reference, inputs=[(3, 16, 16)], arguments=arguments, to="onnx", quick=True, out=out)
    assert run.passed, run.error
    return golden.read(run.folder / "golden" / "golden.npz")


def broken(sample: golden.Golden, spoil: float) -> bool:
    """Whether the check of a sample breaks on its own answers with the scores scaled by that much."""
    got = {name: array.astype(np.float64) for name, array in sample.reference.items()}
    if len(got) > 1:
        got[list(got)[1]] *= spoil
    else:
        (array,) = got.values()
        axis = array.shape.index(BOXES + 6)
        np.moveaxis(array, axis, 0)[BOXES:] *= spoil
    return bool(metrics.check(got, sample.reference, "", metrics.tolerances(sample.noise, {}).fp32).broken)


@pytest.mark.parametrize("scales", ["300 1", "1e5 1"])
@pytest.mark.parametrize("form", ["maps", "rows", "columns"])
def test_small_scores_beside_large_boxes_are_held_as_if_they_were_apart(tmp_path: Path, form: str, scales: str) -> None:
    asked = {"sizes": f"{BOXES} 6", "scales": scales, "form": form}
    joined = recorded(tmp_path / "joined", **asked)
    apart = recorded(tmp_path / "apart", **asked, apart=True)
    for spoil, fails in ((1.0, False), (1.001, True), (2.0, True)):
        assert (broken(joined, spoil), broken(apart, spoil)) == (fails, fails), spoil
