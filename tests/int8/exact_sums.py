"""Times INT8 graphs of 7-bit weights with and without the entry against saturation: `python -m tests.int8.exact_sums`.

The sessions run in turn in one process with one thread, and must give the same bits on the golden cases and on random
ones. On processors without VNNI deploytool sets the entry for every graph.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from deploytool.backends import eager, onnxruntime
from deploytool.benchmark import machine_state, ratio
from deploytool.data.golden import Arrays, read
from deploytool.host import machine
from deploytool.loading import catalog
from deploytool.parity import checks
from deploytool.pipeline import runner
from deploytool.precision.int8.quantize import quantize
from deploytool.results.int8_forms import Form
from deploytool.rewrites.graph import storage
from deploytool.spec import Job, Options
from tests.bench.peers import STAGES
from tests.precision.int8.ranges import measured_ranges

MODELS = ("mobilenet_v1", "shufflenet_g3")
WITH, WITHOUT, AGAIN, FP32 = "with", "without", "with, again", "FP32"
PAIRS = ((WITH, WITHOUT), (AGAIN, WITH), (FP32, WITHOUT))
RANDOM_CASES = 64


def session(path: Path, *, exact: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if exact:
        options.add_session_config_entry(*onnxruntime._EXACT_INTEGERS)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def graphs(model: str, folder: Path) -> tuple[Path, Path, Arrays]:
    """The FP32 graph that is shipped, that in `u8s7`, and the golden inputs."""
    _, golden, *_, shipped = runner.run(Job(catalog.find(model), Options()), STAGES, folder / model)
    cases, out = read(golden.path).inputs, folder / f"{model}.onnx"
    graph = storage.load(shipped.path)
    storage.save(quantize(graph, measured_ranges(graph, cases), Form.U8S7), out)
    return shipped.path, out, cases


def measure(model: str, folder: Path, seconds: float) -> str:
    """One line: medians, ratios with their intervals, and whether the bits are equal."""
    shipped, graph, cases = graphs(model, folder)
    files = {WITH: (graph, True), WITHOUT: (graph, False), AGAIN: (graph, True), FP32: (shipped, False)}
    sessions = {name: session(path, exact=exact) for name, (path, exact) in files.items()}
    inputs, rng = checks.first_cases(cases, 1), np.random.default_rng(0)
    drawn = {
        name: rng.standard_normal((RANDOM_CASES, *array.shape[1:])).astype(array.dtype) for name, array in cases.items()
    }
    answers = [[sessions[name].run(None, each) for each in (cases, drawn)] for name in (WITH, WITHOUT)]
    equal = all(
        np.array_equal(one, other)
        for these, those in zip(*answers, strict=True)
        for one, other in zip(these, those, strict=True)
    )
    calls: dict[str, Callable[[], object]] = {name: partial(each.run, None, inputs) for name, each in sessions.items()}
    timings, conditions = machine_state.time_watched(calls, seconds, 1, warm_up_seconds=2.0, most=2000)
    wall = {name: series.wall_ms for name, series in timings.items()}
    medians = ", ".join(f"{name} {np.median(times):.2f} ms" for name, times in wall.items())
    ratios = {pair: ratio.ratio(wall[pair[0]], wall[pair[1]]) for pair in PAIRS}
    texts = [
        f"{slow} / {fast} {each.value:.3f} ({each.low:.3f}–{each.high:.3f})" for (slow, fast), each in ratios.items()
    ]
    state = f"uneven: {conditions.uneven}" if conditions.uneven else "even"
    bits = "equal" if equal else "DIFFER"
    return f"{model}: {medians}; {', '.join(texts)}; bits {bits}; {len(wall[WITH])} rounds, {state}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each model")
    args = parser.parse_args()
    sys.stdout.write(f"{machine.cpu()}, INT8 saturates: {machine.saturates_int8()}; {onnxruntime.fingerprint()}\n")
    with tempfile.TemporaryDirectory() as folder, eager.using_threads(1):
        for model in args.models:
            sys.stdout.write(f"{measure(model, Path(folder), args.seconds)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
