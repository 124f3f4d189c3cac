"""What the ways to run one graph on the host are called."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.spec import Stage

LABELS: Mapping[str, str] = {
    "fp32_compute": "as converted",
    "fp16_emulation": "in FP16 arithmetic",
    "bf16_emulation": "in BF16 arithmetic",
    "int8_emulation": "as quantised",
    "fp8_emulation": "as quantised",
    "openvino": "in OpenVINO",
}  # by runner: further runs of a graph, and the emulation that is the first run of a BF16 or FP8 graph
_FIRST = ("bf16_emulation", "fp8_emulation")  # no runtime runs these on a CPU


def is_further(runner: str) -> bool:
    """Whether a runner runs a graph again that has a comparison of its own."""
    return runner in LABELS and runner not in _FIRST


def label(stage: Stage, runner: str) -> str:
    """The stage of an artifact, with the runner if the graph is run in several ways."""
    how = LABELS.get(runner)
    return f"{stage} {how}" if how else str(stage)


def artifact(stage: str, file: str, runner: str) -> str:
    """The file of an artifact, with the runner if the graph is run in several ways."""
    how = LABELS.get(runner)
    return f"{stage}/{file} {how}" if how else f"{stage}/{file}"
