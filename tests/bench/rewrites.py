"""Times every form of the zoo's graphs on ONNX Runtime, in turn in one process: `make bench-rewrites`.

The ratios are to the graph as the exporter leaves it; `plain` is what onnxsim makes of that.
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
ROAD = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY)
BATCHES = (1, 8)
EXPORT = "export"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def forms(name: str, folder: Path) -> tuple[list[Candidate], dict[str, Path], Arrays]:
    """The different forms of a model's simplified graph, all files with the plain export first, the golden inputs."""
    *_, record, export, simple = runner.run(Job(catalog.find(name), Options()), ROAD, folder / name)
    found = rewrites_forms.candidates(onnx.load(simple.path))
    files = {EXPORT: export.path} | {form.name: folder / name / f"{form.name}.onnx" for form in found}
    for form in found:
        files[form.name].write_bytes(form.model.SerializeToString(deterministic=True))
    return found, files, read(record.path).inputs


def timed(name: str, folder: Path, seconds: float, threads: int) -> Iterator[str]:
    """A line for every form and batch."""
    found, files, inputs = forms(name, folder)
    with ExitStack() as stack:
        sessions = {each: stack.enter_context(onnxruntime.start(file, threads=threads)) for each, file in files.items()}
        plain = replay(sessions[EXPORT], inputs)
        errors = {each: metrics.compare(replay(session, inputs), plain).max_error for each, session in sessions.items()}
        for batch in BATCHES:
            fed = {each: np.resize(array, (batch, *array.shape[1:])) for each, array in inputs.items()}
            calls = {each: partial(session, **fed) for each, session in sessions.items()}
            taken = benchmark_ratio.time_by_wall_clock(calls, seconds)
            called = {EXPORT: (EXPORT,)} | {form.name: form.names for form in found}
            for each, names in called.items():
                ratio = benchmark_ratio.ratio(taken[EXPORT], taken[each])
                spread = f"{ratio.value:5.2f}× ({ratio.low:.2f}–{ratio.high:.2f})"
                least = f"minima {taken[EXPORT].min() / taken[each].min():5.2f}×"
                head = f"{name:14s} batch {batch} {each:8s} {statistics.median(taken[each]):8.2f} ms"
                yield f"{head}  {spread}  {least}  error {errors[each]:.0e}  {'='.join(names)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*MIXNETS, *SHUFFLENETS, *OTHERS])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each model and batch")
    parser.add_argument(
        "--threads", type=int, default=0, help="that share one operator; 0: as ONNX Runtime thinks best"
    )
    asked = parser.parse_args()
    runtime = f"ONNX Runtime {machine.version('onnxruntime')}, {asked.threads or 'its default'} threads"
    say(f"{machine.cpu()}, Python {platform.python_version()}, {runtime}; ratios to the plain export, in turn")
    measure(asked.models, asked.seconds, asked.threads)


def measure(models: Sequence[str], seconds: float, threads: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        for model in models:
            for line in timed(model, Path(name), seconds, threads):
                say(line)


if __name__ == "__main__":
    main()
