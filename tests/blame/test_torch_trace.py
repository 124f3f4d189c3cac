"""What listening to the source model says of its noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deploytool.blame import torch_trace
from deploytool.blame.torch_trace import trace
from deploytool.data import golden


def test_a_rounding_at_random_goes_to_both_neighbours_and_no_further() -> None:
    exact = torch.full((4096,), 1 + 0.25 * 2.0**-10, dtype=torch.float64)
    rounded = torch_trace._either(exact).double()
    assert set(rounded.tolist()) == {1.0, 1 + 2.0**-10}
    assert float(rounded.mean()) == pytest.approx(float(exact[0]), abs=0.05 * 2.0**-10)


@pytest.mark.parametrize("rounding", ["_nearest", "_either"])
def test_the_noise_of_fp16_is_the_larger_of_two_roundings(
    finished: Path, monkeypatch: pytest.MonkeyPatch, rounding: str
) -> None:
    weights, sample = finished / "load" / "weights.safetensors", golden.read(finished / "golden" / "golden.npz")
    usual = max(known.noise16 for known in trace(weights, sample.inputs).calls)
    monkeypatch.setattr(torch_trace, rounding, lambda values: (values * 1.5).half())
    assert usual < 0.01 < 0.3 < max(known.noise16 for known in trace(weights, sample.inputs).calls)
