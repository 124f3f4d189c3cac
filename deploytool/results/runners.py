"""What the ways to run one graph on the host are called."""

from __future__ import annotations

from collections.abc import Mapping

from deploytool.spec import Stage

LABELS: Mapping[str, str] = {
    "fp32_compute": "as converted",
    "fp16_emulation": "in FP16 arithmetic",
}  # by runner: further runs of a graph that has a comparison of its own


def label(stage: Stage, runner: str) -> str:
    """The stage of an artifact, with the runner if the graph is run in several ways."""
    how = LABELS.get(runner)
    return f"{stage} {how}" if how else str(stage)
