from __future__ import annotations

from pathlib import Path

import numpy as np

from deploytool import golden
from deploytool.backends import torchscript


def test_the_script_takes_any_batch_by_the_names_it_carries(finished: Path) -> None:
    sample = golden.read(finished / "record" / "golden.npz")
    with torchscript.start(finished / "script" / "script.pt") as session:
        whole = session(**sample.inputs)
        single = session(input=sample.inputs["input"][:1])
    assert whole.keys() == {"logits"}
    np.testing.assert_allclose(whole["logits"], sample.outputs["logits"], atol=1e-5)
    np.testing.assert_allclose(single["logits"], whole["logits"][:1], atol=1e-5)
