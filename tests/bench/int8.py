"""Times INT8 graphs of the zoo interleaved with those of other quantisers, in one process: `make bench`.

Ours is the form for this processor of the FP32 graphs that are shipped for ONNX Runtime and for OpenVINO; the peers are
what `onnxruntime.quantization` and nncf make of the plain export with their defaults, each in its own runtime. All
ranges are those of the golden cases, because speed does not depend on them. `--out FILE` writes the table after each
row.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from deploytool.backends import eager, onnxruntime, openvino
from deploytool.backends.session import Session
from deploytool.benchmark import comparison, int8_form, machine_state
from deploytool.benchmark import ratio as benchmark_ratio
from deploytool.benchmark.interleave import TimingSeries
from deploytool.benchmark.machine_state import Conditions
from deploytool.benchmark.ratio import Ratio
from deploytool.data.golden import Arrays, read
from deploytool.errors import DeployError, MissingBackend
from deploytool.host import machine
from deploytool.loading import catalog
from deploytool.parity import checks
from deploytool.pipeline import runner
from deploytool.precision.int8.placement.fused import Fuses
from deploytool.precision.int8.quantize import quantize
from deploytool.results.artifact import openvino_graph
from deploytool.results.int8_forms import cpu_form
from deploytool.rewrites.graph import storage
from deploytool.rewrites.recipes import RECIPES
from deploytool.spec import Job, Options
from tests.bench import rivals
from tests.bench.goals import ORT
from tests.bench.peers import STAGES, ZOO
from tests.int8 import quantizers
from tests.precision.int8.ranges import measured_ranges

FP32, FP32_OPENVINO = "FP32", "FP32 in OpenVINO"
INT8, INT8_OPENVINO = "INT8", "INT8 in OpenVINO"
QUANTIZATION, NNCF = "onnxruntime.quantization", "nncf"
COLUMNS = (ORT, FP32, FP32_OPENVINO, INT8, INT8_OPENVINO, QUANTIZATION, NNCF)

Starters = dict[str, Callable[[], AbstractContextManager[Session]]]


@dataclass(frozen=True)
class Cell:
    """One model at batch 1: timing series, the machine's state, and reasons for missing peers."""

    model: str
    timings: Mapping[str, TimingSeries]
    conditions: Conditions
    missing: Mapping[str, str]

    def best(self, *names: str) -> str:
        """The fastest of these."""
        return min(names, key=lambda name: float(np.median(self.timings[name].wall_ms)))

    def ratio(self, slow: str) -> Ratio:
        """The speed-up of our INT8 graph, in the faster of its runtimes, over another."""
        fast = self.best(INT8, INT8_OPENVINO)
        return benchmark_ratio.ratio(self.timings[slow].wall_ms, self.timings[fast].wall_ms)

    def row(self) -> str:
        """A row of the table: medians in milliseconds, ratios with their intervals."""
        times = [f"{np.median(self.timings[name].wall_ms):.2f}" if name in self.timings else "–" for name in COLUMNS]
        ratios = [self._ratio(name) for name in (ORT, self.best(FP32, FP32_OPENVINO), QUANTIZATION, NNCF)]
        compared = {name: self.timings[name] for name in (ORT, self.best(INT8, INT8_OPENVINO))}
        uneven = self.conditions.uneven or comparison.most_delayed(compared, self.conditions.threads)
        rounds = str(len(self.timings[ORT].wall_ms))
        return f"| {' | '.join([self.model, *times, *ratios, rounds, 'uneven' if uneven else 'even'])} |"

    def _ratio(self, slow: str) -> str:
        if slow not in self.timings:
            return "–"
        ratio = self.ratio(slow)
        return f"{ratio.value:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def measure(model: str, threads: int, seconds: float, folder: Path) -> Cell:
    """Times one model."""
    weights, golden, *_, simplified, shipped = runner.run(Job(catalog.find(model), Options()), STAGES, folder / model)
    cases = read(golden.path).inputs
    inputs = checks.first_cases(cases, 1)
    best = int8_form.fastest(storage.load(simplified.path), RECIPES, cases, Options().batch)
    starters, missing = _starters(weights.path, shipped.path, best.model, cases, threads, folder / model)
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        for name, start in starters.items():
            session = stack.enter_context(start())
            session(**inputs)
            calls[name] = partial(session, **inputs)
        timings, conditions = machine_state.time_watched(calls, seconds, threads, warm_up_seconds=1.0, most=1000)
    return Cell(model, timings, conditions, missing)


def _starters(
    weights: Path, shipped: Path, best: onnx.ModelProto, cases: Arrays, threads: int, folder: Path
) -> tuple[Starters, dict[str, str]]:
    """A function for each graph that starts its session, and reasons for peers that are missing.

    `best` is the form of the FP32 graph that is fastest in OpenVINO in INT8.
    """
    plain, ours, ours_openvino = folder / "plain.onnx", folder / "int8.onnx", folder / "int8_openvino.onnx"
    plain.write_bytes(rivals.export_onnx(weights, cases))
    for graph, out, fuses in (
        (storage.load(shipped), ours, Fuses.CLIPPING),
        (best, ours_openvino, Fuses.ACTIVATIONS),
    ):
        storage.save(quantize(graph, measured_ranges(graph, cases), cpu_form(), fuses=fuses), out)
    count = len(next(iter(cases.values())))
    each = [{name: array[index : index + 1] for name, array in cases.items()} for index in range(count)]
    theirs = quantizers.onnxruntime_defaults(plain, each, folder / "quantization.onnx")
    starters: Starters = {
        ORT: partial(quantizers.onnxruntime_session, plain, threads),
        FP32: partial(onnxruntime.start, shipped, "cpu", threads),
        FP32_OPENVINO: partial(openvino.start, openvino_graph(shipped) or shipped, "cpu", threads),
        INT8: partial(onnxruntime.start, ours, "cpu", threads),
        INT8_OPENVINO: partial(openvino.start, ours_openvino, "cpu", threads),
        QUANTIZATION: partial(quantizers.onnxruntime_session, theirs, threads),
    }
    try:
        model = quantizers.nncf_defaults(plain, each, folder / "nncf.xml")
        starters[NNCF] = partial(quantizers.openvino_session, model, threads)
    except MissingBackend as error:
        return starters, {NNCF: str(error)}
    return starters, {}


def header(threads: int) -> list[str]:
    """The title, the conditions of the measurement and the names of the columns."""
    vnni = "no VNNI: sums of INT8 products saturate" if machine.saturates_int8() else "with VNNI"
    names = ["model", *(f"{name} ms" for name in COLUMNS)]
    names += ["× ORT", "× FP32, the better", f"× {QUANTIZATION}", f"× {NNCF}", "rounds", "machine"]
    return [
        f"# Peers in INT8, batch 1, {threads} thread{'s' * (threads > 1)}",
        "",
        f"{machine.cpu()}, {vnni}; Python {platform.python_version()}, {rivals.versions()},",
        f"nncf {quantizers.nncf_version()}; {time.strftime('%Y-%m-%d')}. Ours has the form {cpu_form()}.",
        "Medians of interleaved rounds, ratios with 95 % intervals: the speed of our INT8 graph in the faster of its",
        f"two runtimes over the plain export in FP32 ({ORT}), the better of our FP32 graphs, and each peer.",
        "",
        f"| {' | '.join(names)} |",
        f"|{'---|' * len(names)}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=ZOO)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each model")
    parser.add_argument("--out", type=Path, help="file for the table, written after each row")
    args = parser.parse_args()
    lines, missing = header(args.threads), dict[str, None]()
    sys.stdout.write("\n".join(lines) + "\n")
    with tempfile.TemporaryDirectory() as name, eager.using_threads(args.threads):
        for model in args.models:
            try:
                cell = measure(model, args.threads, args.seconds, Path(name))
            except DeployError as error:
                sys.stdout.write(f"{model}: {error}\n")
                continue
            lines.append(cell.row())
            missing |= {f"{peer} is missing: {reason}": None for peer, reason in cell.missing.items()}
            sys.stdout.write(lines[-1] + "\n")
            sys.stdout.flush()
            if args.out:
                args.out.write_text("\n".join([*lines, "", *missing]).rstrip() + "\n", encoding="utf-8")
    sys.stdout.write("".join(f"{line}\n" for line in missing))


if __name__ == "__main__":
    main()
