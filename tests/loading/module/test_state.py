from __future__ import annotations

import torch
from torch import nn

from deploytool.loading.module import state


def test_weights_that_are_unchanged_are_not_copied() -> None:
    module = nn.BatchNorm1d(3)
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    before = state.snapshot(module, weights)
    assert before["parameter weight"] is weights["weight"]
    assert before["buffer running_mean"] is weights["running_mean"]
    with torch.no_grad():
        module.weight[1] = float("nan")
    changed = state.snapshot(module, weights)
    assert changed["parameter weight"] is not weights["weight"]
    assert state.differences(before, changed) == ("parameter weight",)
    assert state.differences(changed, state.snapshot(module, {})) == ()
