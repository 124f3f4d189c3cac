"""Times every way to run the zoo's graphs on a GPU, if there is one: `make bench`.

All run interleaved in one process: eager in FP32 and FP16, channels_last, torch.compile, a CUDA graph, and ONNX Runtime
CUDA on the FP32 graphs and on the FP16 graph, original and rewritten. `--out FILE` writes the table after each model.
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
from deploytool.spec import Job, Precision, Stage, state_text

ZOO = ("mixnet_s", "shufflenet_g3", "mobilenet_v1", "squeezenet1_1")
STAGES = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE, Stage.FP16)


class _Folder(str):
    """The folder of an FP16 graph, in the place of its stage."""

    __slots__ = ()
    precision = Precision.FP16


FP16_ORIGINAL = _Folder("fp16_original")  # the stage directory of the FP16 graph without rewrites
LIBRARIES = ("torch", "onnxruntime-gpu", "onnxruntime")
COLUMNS = ("model", "batch", "way", "p50 ms", "p99 ms", "GPU ms", "× eager", "verdict")


def run_with_original(job: Job, folder: Path) -> tuple[Path, StageInputs]:
    """Runs the stages to FP16, with and without rewrites; returns the run's folder and all artifacts."""
    run_folder, original = folder / job.model.name, folder / f"{job.model.name}_original"
    artifacts = list(runner.run(job, STAGES, run_folder))
    *_, fp16 = runner.run(replace(job, options=replace(job.options, rewrite=ORIGINAL)), STAGES, original)
    stage_folder = shutil.copytree(fp16.path.parent, run_folder / FP16_ORIGINAL)
    copied = replace(fp16, path=stage_folder / fp16.path.name, made_by=cast("Stage", FP16_ORIGINAL))
    return run_folder, StageInputs((*artifacts, copied))


def rows(bench: Bench) -> Iterator[str]:
    """A row of the table for every candidate and batch."""
    for sweep in bench.sweeps:
        for row in sweep.rows:
            yield f"| {' | '.join((bench.model, str(sweep.batch), row.name, *_figures(row)))} |"


def _figures(row: Row) -> tuple[str, ...]:
    if row.latency is None:
        return ("–", "–", "–", "–", state_text(row.status, row.reason))
    latency, ratio = row.latency, row.ratio
    times = ("–" if value is None else f"{value:.3f}" for value in (latency.p50_ms, latency.p99_ms, latency.gpu_ms))
    speedup = f"{ratio.value:.2f} ({ratio.low:.2f}–{ratio.high:.2f})" if ratio else "–"
    bound = ", the GPU waits for the host" if latency.launch_bound else ""
    return (*times, speedup, f"{state_text(row.verdict, row.reason) if row.verdict else 'the baseline'}{bound}")


def header(device: str, seconds: float) -> list[str]:
    """The title, the conditions of the measurement and the names of the columns."""
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
    parser.add_argument("--out", type=Path, help="file for the table, written after each model")
    args = parser.parse_args()
    if not machine.gpus():
        sys.stdout.write("No CUDA driver found: no GPU was timed.\n")
        return
    lines = header(machine.gpus()[0].name, args.seconds)
    clocks = ["", "GPU clock, highest, throttle reasons, temperature, before and after:", ""]
    options = BenchOptions(tuple(args.batch), threads=1, seconds=args.seconds, device="cuda", torch_compile=True)
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            job = Job(catalog.find(model))
            bench = run.run(*run_with_original(job, Path(folder)), options, job.watch)
            lines += rows(bench)
            clocks += [f"- {model} batch {sweep.batch}: {'; '.join(sweep.conditions.gpu)}" for sweep in bench.sweeps]
            if args.out:
                args.out.write_text("\n".join([*lines, *clocks]) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join([*lines, *clocks]) + "\n")


if __name__ == "__main__":
    main()
