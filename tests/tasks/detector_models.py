"""Measures the comparison of detections on models that select inside the graph, in FP32 and in FP16 on the CPU.

    python -m tests.tasks.detector_models [--seeds 20]

Each seed is a detector with random weights and many nearly equal scores, once with the best boxes only, once with a
suppression of overlapping ones. Its answers in FP32 and in FP16 are torch's own; faults are planted in those in FP16.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from deploytool.data.golden import Arrays
from deploytool.parity import metrics, noise, noise_floor, ties
from deploytool.parity.metrics import Tolerances
from deploytool.parity.ties import PerturbedRuns, Ties
from deploytool.spec import Decoding, Model, Task, Tensor
from tests.tasks.detector_faults import FAULTS
from tests.user_models.detector import Detector

NAMES, CASES, SIDE, TOP = ("boxes", "scores", "labels"), 6, 96, 40
SUPPRESSIONS = (0.0, 0.5)


@dataclass(frozen=True)
class Measured:
    """A detector with its answers in FP64, its tolerances and its ties."""

    module: nn.Module
    images: np.ndarray
    reference: Arrays
    allowed: Tolerances
    tied: Ties
    swapped: float

    def answers(self, dtype: torch.dtype) -> dict[str, np.ndarray]:
        """torch's own answers in another type."""
        return answers(copy.deepcopy(self.module).to(dtype), self.images)


def answers(module: nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """The answers of a module in its own type."""
    dtype = next(module.parameters()).dtype
    with torch.no_grad():
        outputs = module(torch.from_numpy(images).to(dtype))
    return {
        name: output.double().numpy() if output.is_floating_point() else output.numpy()
        for name, output in zip(NAMES, outputs, strict=True)
    }


def measured(seed: int, suppression: float, side: int = SIDE) -> Measured:
    """The detector of a seed."""
    module = Detector(seed, TOP, nms=suppression).eval()
    shapes: tuple[tuple[int, ...], ...] = ((TOP, 4), (TOP,), (TOP,))
    outputs = tuple(
        Tensor(name, ("batch", *shape), "int64" if name == "labels" else "float32")
        for name, shape in zip(NAMES, shapes, strict=True)
    )
    image = Tensor("image", ("batch", 3, side, side))
    decoding = Decoding(nms=suppression, threshold=0.0)
    model = Model("detector", "none", inputs=(image,), outputs=outputs, task=Task.DETECT, decoding=decoding)
    images = np.random.default_rng(seed).standard_normal((CASES, 3, side, side)).astype(np.float32)
    exact = copy.deepcopy(module).double()
    reference, inputs = answers(exact, images), {"image": images}
    with torch.no_grad():
        floor = noise.measure(module, model, inputs, reference).noise
        runs = PerturbedRuns(lambda feeds: answers(exact, feeds["image"]), *noise.perturbed_runs(module, model))
        tied = ties.find(runs, inputs, reference, ["labels"], floor.rows)
    allowed = metrics.tolerances(noise_floor.tied(floor, tied.fp32, tied.fp16), {})
    return Measured(module, images, reference, allowed, tied, floor.swapped16)


def run(seeds: int) -> Counter[str]:
    """Counts of correct answers, of those that fail, of rows in other places, and of faults that pass."""
    counts: Counter[str] = Counter()
    for seed in range(seeds):
        for suppression in SUPPRESSIONS:
            _count(measured(seed, suppression), f"suppression {suppression:g}", counts)
    return counts


def _count(subject: Measured, kind: str, counts: Counter[str]) -> None:
    for name, dtype, limits, tied in (
        ("fp32", torch.float32, subject.allowed.fp32, subject.tied.fp32),
        ("fp16", torch.float16, subject.allowed.fp16, subject.tied.fp16),
    ):
        got = subject.answers(dtype)
        elsewhere = np.abs(got["boxes"] - subject.reference["boxes"]).max(-1) > SIDE / 100
        counts[f"{name}, {kind}: answers"] += 1
        counts[f"{name}, {kind}: fail"] += bool(metrics.check(got, subject.reference, "FP64", limits, tied).broken)
        counts[f"{name}, {kind}: rows"] += elsewhere.size
        counts[f"{name}, {kind}: rows in another place"] += int(elsewhere.sum())
    counts[f"{kind}: models with swaps"] += subject.swapped > 0
    reach = {limit.part.output: limit.tolerance.max_error for limit in limits.parts}
    if got["scores"][0, 0] - got["scores"][0, -1] <= 12 * reach["scores"]:
        return
    for name, fault in FAULTS.items():
        counts[f"{kind}, {name}: planted"] += 1
        faulty = fault(got, reach["boxes"], reach["scores"])
        passes = not metrics.check(faulty, subject.reference, "FP64", limits, tied).broken
        counts[f"{kind}, {name}: pass"] += passes


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    for what, count in sorted(run(parser.parse_args().seeds).items()):
        print(f"{what:70} {count}")
