"""Times every form of the zoo's graphs on ONNX Runtime, interleaved in one process: `make bench-rewrites`.

The baseline of the ratios is the exporter's graph; the form `original` is onnxsim's result.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from deploytool.backends import onnxruntime
from deploytool.benchmark import ratio as benchmark_ratio
from deploytool.data.golden import Arrays, read
from deploytool.host import machine
from deploytool.loading import catalog
from deploytool.parity import metrics
from deploytool.parity.replay import replay
from deploytool.pipeline import runner
from deploytool.rewrites import forms as rewrites_forms
from deploytool.rewrites.forms import Candidate
from deploytool.spec import Job, Options, Stage

MIXNETS = ("mixnet_s", "mixnet_m", "mixnet_l")
SHUFFLENETS = ("shufflenet_g1", "shufflenet_g2", "shufflenet_g3", "shufflenet_g4", "shufflenet_g8")
OTHERS = ("squeezenet1_0", "squeezenet1_1", "mobilenet_v1")
STAGES = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY)
BATCHES = (1, 8)
EXPORT = "export"


def write_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def forms(name: str, folder: Path) -> tuple[list[Candidate], dict[str, Path], Arrays]:
    """The forms of a model's simplified graph, their files with the exporter's first, and the golden inputs."""
    *_, golden, export, simplified = runner.run(Job(catalog.find(name), Options()), STAGES, folder / name)
    candidates = rewrites_forms.candidates(onnx.load(simplified.path))
    files = {EXPORT: export.path} | {form.name: folder / name / f"{form.name}.onnx" for form in candidates}
    for form in candidates:
        files[form.name].write_bytes(form.model.SerializeToString(deterministic=True))
    return candidates, files, read(golden.path).inputs


def time_forms(name: str, folder: Path, seconds: float, threads: int) -> Iterator[str]:
    """A line for every form and batch."""
    candidates, files, inputs = forms(name, folder)
    with ExitStack() as stack:
        sessions = {key: stack.enter_context(onnxruntime.start(file, threads=threads)) for key, file in files.items()}
        expected = replay(sessions[EXPORT], inputs)
        errors = {
            key: metrics.compare(replay(session, inputs), expected).max_error for key, session in sessions.items()
        }
        for batch in BATCHES:
            batched = {tensor: np.resize(array, (batch, *array.shape[1:])) for tensor, array in inputs.items()}
            calls = {key: partial(session, **batched) for key, session in sessions.items()}
            latencies = benchmark_ratio.time_by_wall_clock(calls, seconds)
            recipes = {EXPORT: (EXPORT,)} | {form.name: form.names for form in candidates}
            for key, names in recipes.items():
                ratio = benchmark_ratio.ratio(latencies[EXPORT], latencies[key])
                spread = f"{ratio.value:5.2f}× ({ratio.low:.2f}–{ratio.high:.2f})"
                least = f"minima {latencies[EXPORT].min() / latencies[key].min():5.2f}×"
                head = f"{name:14s} batch {batch} {key:8s} {statistics.median(latencies[key]):8.2f} ms"
                yield f"{head}  {spread}  {least}  error {errors[key]:.0e}  {'='.join(names)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*MIXNETS, *SHUFFLENETS, *OTHERS])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each model and batch")
    parser.add_argument("--threads", type=int, default=0, help="intra-op threads; 0: ONNX Runtime's default")
    args = parser.parse_args()
    runtime = f"ONNX Runtime {machine.version('onnxruntime')}, {args.threads or 'its default'} threads"
    write_line(
        f"{machine.cpu()}, Python {platform.python_version()}, {runtime}; ratios to the exporter's graph, interleaved"
    )
    measure(args.models, args.seconds, args.threads)


def measure(models: Sequence[str], seconds: float, threads: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        for model in models:
            for line in time_forms(model, Path(name), seconds, threads):
                write_line(line)


if __name__ == "__main__":
    main()
