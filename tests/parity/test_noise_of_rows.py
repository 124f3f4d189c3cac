"""Detections that rounding swaps are counted wherever they are, and not on the noisiest cases alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor as Values
from torch import nn
from torch.nn import functional

from deploytool.data.golden import Noise
from deploytool.parity import noise
from deploytool.spec import Decoding, Model, Precision, Task, Tensor

PLACES, FOUND = 16, 5
TIED, UNTIED = 9, 6  # cases: the untied ones are the noisiest
MODEL = Model(
    "peaks",
    "none",
    inputs=(Tensor("image", ("batch", 5, PLACES)),),
    outputs=(
        Tensor("boxes", ("batch", FOUND, 4)),
        Tensor("scores", ("batch", FOUND)),
        Tensor("labels", ("batch", FOUND), "int64"),
    ),
    task=Task.DETECT,
    decoding=Decoding(threshold=0.3),
)


class Peaks(nn.Module):
    """The places with the largest first channel among their neighbours; the other channels are their boxes."""

    def forward(self, image: Values) -> tuple[Values, Values, Values]:
        logits = image[:, :1] * 1.0
        peaks = logits == functional.max_pool1d(logits, 3, 1, 1)
        scores, places = (torch.sigmoid(logits) * peaks)[:, 0].topk(FOUND, 1)
        boxes = (image[:, 1:] * 1.0).transpose(1, 2).gather(1, places[..., None].expand(-1, -1, 4))
        return boxes, scores, torch.zeros_like(places)


@pytest.fixture(scope="module")
def inputs() -> dict[str, npt.NDArray[np.float32]]:
    """Cases with a peak, of a score of 0.27, that hardly exceeds its neighbour, and noisier ones without one."""
    image = np.zeros((TIED + UNTIED, 5, PLACES), np.float32)
    image[:, 0] = -9.0
    image[:, 0, [1, 4, 7, 11, 14]] = [3.0, 2.0, 1.0, -1.002, -6.0]  # -1.002 is between two numbers of FP16, and of BF16
    image[:TIED, 0, 12] = -1.002 - 1e-5 * np.arange(1, TIED + 1)
    corners = np.arange(PLACES) * 8.0
    image[:, 1:] = np.stack([corners, corners, corners + 4, corners + 4])[None]
    image[TIED:, 1:] += 0.3  # no FP16 number
    return {"image": image}


@pytest.fixture(scope="module")
def measured(inputs: dict[str, npt.NDArray[np.float32]]) -> Noise:
    with torch.no_grad():
        exact = [answer.numpy() for answer in Peaks()(torch.from_numpy(inputs["image"]).double())]
        reference = dict(zip(("boxes", "scores", "labels"), exact, strict=True))
        found = noise.measure(Peaks(), MODEL, inputs, reference).noise
        return noise.with_bf16(found, Peaks(), MODEL, inputs, reference).noise


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_swaps_outside_of_the_noisiest_cases_are_counted(measured: Noise, precision: Precision) -> None:
    assert 1 / 75 <= measured.swapped(precision) <= TIED / 75


def test_fp32_swaps_none_of_them(measured: Noise) -> None:
    assert measured.swapped(Precision.FP32) == 0
