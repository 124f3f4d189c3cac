"""Tests that old and new names of torch's weight norms are interchangeable."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deploytool.loading.checkpoints import checkpoint
from deploytool.spec import Model, Tensor

NORMS: dict[str, Any] = {
    "old weight": nn.utils.weight_norm,
    "new weight": nn.utils.parametrizations.weight_norm,
    "old spectral": nn.utils.spectral_norm,
    "new spectral": nn.utils.parametrizations.spectral_norm,
}


def make(norm: str) -> nn.Module:
    """A model with a normed convolution in a nested module and one at the top level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        apply = NORMS[norm]
        deep = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Sequential(apply(nn.Conv1d(4, 3, 3))))
        return nn.Sequential(deep, apply(nn.Conv1d(3, 2, 1)))


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [(f"{a} {kind}", f"{b} {kind}") for kind in ("weight", "spectral") for a in ("old", "new") for b in ("old", "new")],
)
def test_old_and_new_names_fit_either_definition(saved: str, loaded: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    trained = make(saved).eval()
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    model = Model(
        "normed", f"{__name__}:make", {"norm": loaded}, (Tensor("x", ("batch", 2, 9)),), (Tensor("y", ("batch",)),)
    )
    module = make(loaded).eval()
    module.load_state_dict(dict(checkpoint.load(tmp_path / "net.pt", model).state))
    signal = torch.randn(2, 2, 9)
    with torch.no_grad():
        assert torch.equal(module(signal), trained(signal))
