from __future__ import annotations

from pathlib import Path

import numpy as np

from deploytool.backends import torchscript
from deploytool.data import golden


def test_the_script_takes_any_batch_by_the_names_it_carries(finished: Path) -> None:
    sample = golden.read(finished / "golden" / "golden.npz")
    with torchscript.start(finished / "torchscript" / "model.pt") as session:
        whole = session(**sample.inputs)
        single = session(input=sample.inputs["input"][:1])
    assert whole.keys() == {"logits"}
    np.testing.assert_allclose(whole["logits"], sample.outputs["logits"], atol=1e-5)
    np.testing.assert_allclose(single["logits"], whole["logits"][:1], atol=1e-5)
