"""The sigmoid of ONNX Runtime on a CPU, whose error is absolute."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from deploytool.parity import metrics, noise, rational_sigmoid
from deploytool.spec import BATCH, Model, Tensor
from tests.parity.test_sequential_sum import onnxruntime_answer

X = np.linspace(-25, 12, 20_001, dtype=np.float32)


def test_it_errs_as_onnxruntime_does() -> None:
    exact = 1 / (1 + np.exp(-X.astype(np.float64)))
    runtime, ours, torchs = (
        np.abs(answer - exact)
        for answer in (
            onnxruntime_answer("Sigmoid", X),
            np.asarray(rational_sigmoid.sigmoid(torch.from_numpy(X))),
            torch.sigmoid(torch.from_numpy(X)).numpy(),
        )
    )
    near_zero = X < -5
    assert runtime.max() <= 1.5 * ours.max() <= 3e-7
    assert np.sqrt((runtime**2).mean()) <= 1.5 * np.sqrt((ours**2).mean())
    assert torchs[near_zero].max() < 0.1 * runtime[near_zero].max() < 0.2 * ours[near_zero].max()


def test_other_types_are_left_to_pytorch() -> None:
    assert rational_sigmoid.sigmoid(torch.zeros(2, dtype=torch.float64)) is None


class Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)


def test_answers_near_zero_are_within_the_tolerance_that_follows_and_no_part_of_their_own() -> None:
    """A map of probabilities of which most are nearly zero, as a text detector gives on a page."""
    model = Model("gate", "none", {}, (Tensor("x", (BATCH, 64, 8)),), (Tensor("y", (BATCH, 64, 8)),))
    x = np.random.default_rng(0).normal(-14, 1, (8, 64, 8)).astype(np.float32)
    x[:, 10:40] += 12
    reference = {"y": 1 / (1 + np.exp(-x.astype(np.float64)))}
    measured = noise.measure(Gate(), model, {"x": x}, reference).noise
    runtime = {"y": onnxruntime_answer("Sigmoid", x)}
    assert len(measured.parts) == 1
    check = metrics.check(runtime, reference, "FP64", metrics.tolerances(measured, {}).fp32)
    assert not check.broken
    faint = x - 4
    of_faint = {"y": 1 / (1 + np.exp(-faint.astype(np.float64)))}
    limits = metrics.tolerances(noise.measure(Gate(), model, {"x": faint}, of_faint).noise, {}).fp32
    assert not metrics.check({"y": onnxruntime_answer("Sigmoid", faint)}, of_faint, "FP64", limits).broken
