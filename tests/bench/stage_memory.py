"""Runs a command of deploytool and records the memory of each stage of an export.

    python -m tests.bench.stage_memory LIMIT export net.py:net --out run

LIMIT: bytes of weights beyond which a graph gets a side file; 0 for the usual number, which no option changes. Writes
`stages.json` to the working folder: the figures of `Peak` by stage.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from deploytool.loading.stage_inputs import StageInputs
from deploytool.pipeline import runner
from deploytool.results.artifact import Notes
from deploytool.rewrites.graph import weights
from deploytool.spec import Job, Stage

FILE = "stages.json"
ROOT = Path(__file__).parents[2]


@dataclass
class Peak:
    """The largest anonymous memory during a stage in bytes: of this process, and of it with its children."""

    seconds: float
    own: int = 0
    all: int = 0


@contextmanager
def recorded() -> Iterator[dict[str, Peak]]:
    """Records the stages that run in the body, by name; the memory is there when the body has ended."""
    peaks, run_stage = dict[str, Peak](), runner._run_stage
    command = [sys.executable, "-m", "tests.bench.memory_sampler", str(os.getpid())]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sampler:

        def begin(phase: str) -> None:
            assert sampler.stdin is not None
            print(phase, file=sampler.stdin, flush=True)

        def watched(stage: Stage, job: Job, out: Path, inputs: StageInputs) -> Notes:
            start = time.monotonic()
            begin(stage)
            try:
                return run_stage(stage, job, out, inputs)
            finally:
                peaks[stage] = Peak(time.monotonic() - start)
                begin("between")

        runner._run_stage = watched
        try:
            yield peaks
        finally:
            runner._run_stage = run_stage
            sampled = json.loads(sampler.communicate()[0])
    for stage, peak in peaks.items():
        peak.own, peak.all = sampled.get(stage, (0, 0))  # none for a stage that is shorter than the interval


def main() -> None:
    """Runs the command and writes the record."""
    weights.MAX_INLINE_BYTES = int(sys.argv.pop(1)) or weights.MAX_INLINE_BYTES
    from deploytool.cli import app

    with recorded() as peaks:
        code = app.run()  # main() of deploytool would end the process at once
    Path(FILE).write_text(json.dumps({stage: asdict(peak) for stage, peak in peaks.items()}), encoding="utf-8")
    sys.exit(code)


if __name__ == "__main__":
    main()
