"""The FP16 noise of the source model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deploytool.blame import torch_trace
from deploytool.blame.torch_trace import trace
from deploytool.data import golden


def test_random_rounding_selects_an_adjacent_number() -> None:
    exact = torch.full((4096,), 1 + 0.25 * 2.0**-10, dtype=torch.float64)
    rounded = torch_trace._round_random(exact).double()
    assert set(rounded.tolist()) == {1.0, 1 + 2.0**-10}
    assert float(rounded.mean()) == pytest.approx(float(exact[0]), abs=0.05 * 2.0**-10)


@pytest.mark.parametrize("rounding", ["_round_nearest", "_round_random"])
def test_fp16_noise_is_the_larger_of_two_roundings(
    finished: Path, monkeypatch: pytest.MonkeyPatch, rounding: str
) -> None:
    weights, sample = finished / "load" / "weights.safetensors", golden.read(finished / "golden" / "golden.npz")
    usual = max(call.noise16 for call in trace(weights, sample.inputs).calls)
    monkeypatch.setattr(torch_trace, rounding, lambda values: (values * 1.5).half())
    assert usual < 0.01 < 0.3 < max(call.noise16 for call in trace(weights, sample.inputs).calls)
