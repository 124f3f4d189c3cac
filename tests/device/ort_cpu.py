"""The candidate for ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploytool.device import verify
from deploytool.device.candidates import Candidate, Tier
from deploytool.device.environment import Environment

HERE = Environment("linux", "x86_64")


def on_ort_cpu(candidates: Sequence[Candidate]) -> Candidate:
    (found,) = (each for each in candidates if each.tier is Tier.ORT_CPU)
    return found


def ort_cpu(folder: Path, environment: Environment = HERE) -> Candidate:
    return on_ort_cpu(verify.run_candidates(verify.check_integrity(folder), environment))
