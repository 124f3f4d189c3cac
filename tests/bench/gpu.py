"""Times on a GPU, where one answers, every way to run the zoo's graphs: `make bench`.

In one process and in turn: eager in FP32 and FP16, channels_last, torch.compile, a CUDA graph, and ONNX Runtime CUDA on
the FP32 graphs and on the FP16 graph, as exported and as rewritten. `--out FILE` writes the table as it grows.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

from deploytool.benchmark import run
from deploytool.benchmark.result import Bench, Row
from deploytool.benchmark.run import BenchOptions
from deploytool.host import machine
from deploytool.loading import catalog
from deploytool.loading.stage_inputs import StageInputs
from deploytool.pipeline import runner
from deploytool.rewrites.recipes import ORIGINAL
from deploytool.spec import Job, Stage, spoken

ZOO = ("mixnet_s", "shufflenet_g3", "mobilenet_v1", "squeezenet1_1")
ROAD = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE, Stage.FP16)
PLAIN_HALF = "halve_plain"  # beside `fp16`, the FP16 graph that was never rewritten
LIBRARIES = ("torch", "onnxruntime-gpu", "onnxruntime")
COLUMNS = ("model", "batch", "way", "p50 ms", "p99 ms", "GPU ms", "× eager", "verdict")


def both(job: Job, folder: Path) -> tuple[Path, StageInputs]:
    """A run up to its FP16 graph, with the FP16 graph of the plain form among its artifacts."""
    home, plain = folder / job.model.name, folder / f"{job.model.name}_plain"
    made = list(runner.run(job, ROAD, home))
    *_, half = runner.run(replace(job, options=replace(job.options, rewrite=ORIGINAL)), ROAD, plain)
    room = shutil.copytree(half.path.parent, home / PLAIN_HALF)
    return home, StageInputs((*made, replace(half, path=room / half.path.name, made_by=cast("Stage", PLAIN_HALF))))


def rows(found: Bench) -> Iterator[str]:
    """A row of the table for every way and batch."""
    for sweep in found.sweeps:
        for row in sweep.rows:
            yield f"| {' | '.join((found.model, str(sweep.batch), row.name, *_figures(row)))} |"


def _figures(row: Row) -> tuple[str, ...]:
    if row.latency is None:
        return ("–", "–", "–", "–", spoken(row.status, row.reason))
    timed, ratio = row.latency, row.ratio
    times = ("–" if each is None else f"{each:.3f}" for each in (timed.p50_ms, timed.p99_ms, timed.gpu_ms))
    gain = f"{ratio.value:.2f} ({ratio.low:.2f}–{ratio.high:.2f})" if ratio else "–"
    bound = ", the GPU waits for the host" if timed.launch_bound else ""
    return (*times, gain, f"{spoken(row.verdict, row.reason) if row.verdict else 'the baseline'}{bound}")


def head(device: str, seconds: float) -> list[str]:
    """On what this was measured, and the names of the columns."""
    versions = [f"{name} {version}" for name in LIBRARIES if (version := machine.version(name))]
    return [
        f"# {device}",
        "",
        f"Python {platform.python_version()}, {', '.join(versions)}; {time.strftime('%Y-%m-%d')}.",
        f"Interleaved rounds for {seconds:g} s at each batch, from host memory to host memory; `GPU ms` is that",
        "between CUDA events. Ratios with 95 % intervals.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=ZOO)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--seconds", type=float, default=15.0, help="for each model and batch")
    parser.add_argument("--out", type=Path, help="write the table there, after each model")
    asked = parser.parse_args()
    if not machine.gpus():
        sys.stdout.write("No CUDA driver answers on this machine: no GPU was timed.\n")
        return
    lines = head(machine.gpus()[0].name, asked.seconds)
    clocks = ["", "GPU clock, highest, throttle reasons, temperature, before and after:", ""]
    wanted = BenchOptions(tuple(asked.batch), threads=1, seconds=asked.seconds, device="cuda", torch_compile=True)
    with tempfile.TemporaryDirectory() as folder:
        for model in asked.models:
            job = Job(catalog.find(model))
            found = run.run(*both(job, Path(folder)), wanted, job.watch)
            lines += rows(found)
            clocks += [f"- {model} batch {each.batch}: {'; '.join(each.conditions.gpu)}" for each in found.sweeps]
            if asked.out:
                asked.out.write_text("\n".join([*lines, *clocks]) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join([*lines, *clocks]) + "\n")


if __name__ == "__main__":
    main()
