"""Tests of the torchscript stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deploytool.backends import torchscript
from deploytool.data import golden


def test_the_file_contains_the_input_names_and_runs_at_any_batch_size(finished: Path) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    with torchscript.start(finished / "torchscript" / "model.pt") as session:
        outputs = session(**sample.inputs)
        single = session(input=sample.inputs["input"][:1])
    assert outputs.keys() == {"logits"}
    np.testing.assert_allclose(outputs["logits"], sample.outputs["logits"], atol=1e-5)
    np.testing.assert_allclose(single["logits"], outputs["logits"][:1], atol=1e-5)
