"""Measures the comparison of detections as sets: correct answers that fail, and planted faults that pass.

    python -m tests.tasks.detector_campaign [--seeds 50]

Each seed draws candidates with scores that are spread widely, little, or hardly at all, and selects the best 20 to 100.
Correct answers are selected from candidates with errors up to the noise, which is a quarter (FP16) or a
sixteenth (FP32) of the tolerance.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter

import numpy as np

from deploytool.data.golden import Floor, Noise, Perturbation
from deploytool.parity import detection_rows, metrics
from deploytool.results.output_parts import OutputPart
from deploytool.results.report import Limits
from deploytool.spec import Decoding, Model, Task
from tests.tasks import detector_faults as drawn

NOISE = {"fp32": 1e-6, "fp16": 1e-3}  # of scores; boxes have half of it
SPREADS, TOPS = (0.3, 0.02, 0.01, 0.005, 0.002), (20, 100)
CASES, CANDIDATES = 4, 400


def tolerance(reference: drawn.Answers, precision: str) -> Limits:
    """The tolerances of a model with the noise of `NOISE`."""
    size = NOISE[precision]
    floors = {"boxes": Floor(size / 2, size / 4), "scores": Floor(size, size / 2), "labels": Floor(0.0, 0.0)}
    parts = tuple(Perturbation(OutputPart(name, labels=name == "labels"), each, each) for name, each in floors.items())
    rows = detection_rows.of_model(Model("detector", "none", task=Task.DETECT, decoding=Decoding()), reference)
    limits: Limits = getattr(metrics.tolerances(Noise(floors["scores"], floors["scores"], parts, rows), {}), precision)
    return limits


def run(seeds: int) -> Counter[str]:
    """Counts of correct answers, of those that fail, of rows that moved, and of faults that pass."""
    counts: Counter[str] = Counter()
    for seed, precision, spread, top in itertools.product(range(seeds), NOISE, SPREADS, TOPS):
        candidates = drawn.candidates(seed, CASES, CANDIDATES, spread)
        expected, size = drawn.select(candidates, top), NOISE[precision]
        got = drawn.select(drawn.rounded(candidates, seed + 1000, size / 2, size), top)
        limits, kind = tolerance(expected, precision), f"{precision}, spread {spread:g}"
        reach = {limit.part.output: limit.tolerance.max_error for limit in limits.parts}
        counts[f"correct, {kind}: answers"] += 1
        counts[f"correct, {kind}: fail"] += bool(metrics.check(got, expected, "itself", limits).broken)
        elsewhere = np.abs(got["boxes"] - expected["boxes"]).max(-1) > drawn.SIDE * size
        counts[f"correct, {kind}: rows of another place"] += int(elsewhere.sum())
        counts[f"correct, {kind}: rows"] += elsewhere.size
        clear = got["scores"][0, 0] - got["scores"][0, -1] > 12 * reach["scores"]
        for name, fault in drawn.FAULTS.items() if clear else ():
            counts[f"{name}: planted"] += 1
            faulty = fault(got, reach["boxes"], reach["scores"])
            counts[f"{name}: pass"] += not metrics.check(faulty, expected, "itself", limits).broken
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    for what, count in run(parser.parse_args().seeds).items():
        print(f"{what:60} {count}")
