"""Times the zoo's shipped graphs interleaved with other runtimes, in one process: `make bench`.

All use the same number of threads and host memory; the peak rate is that of matrix products timed in the same rounds.
`--out FILE` writes the table after each row.
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
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper

from deploytool.backends import eager, onnxruntime
from deploytool.backends.session import Session
from deploytool.benchmark import comparison, machine_state
from deploytool.benchmark import ratio as benchmark_ratio
from deploytool.benchmark.interleave import TimingSeries
from deploytool.benchmark.machine_state import Conditions
from deploytool.benchmark.ratio import Ratio
from deploytool.data.golden import Arrays, read
from deploytool.errors import DeployError, MissingBackend, StageFailed
from deploytool.host import machine
from deploytool.loading import catalog
from deploytool.parity import checks, metrics
from deploytool.pipeline import runner
from deploytool.results.artifact import Kind
from deploytool.spec import Job, Options, Stage
from tests.bench import goals, rivals
from tests.bench.goals import BOTH, OPENVINO, ORT
from tests.bench.rivals import COMPILE, EAGER, ONNXSIM, ONNXSLIM, OURS, OURS_OPENVINO

ZOO = (
    *("mixnet_s", "mixnet_m", "mixnet_l"),
    *("shufflenet_g1", "shufflenet_g2", "shufflenet_g3", "shufflenet_g4", "shufflenet_g8"),
    *("mobilenet_v1", "squeezenet1_0", "squeezenet1_1"),
)
STAGES = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE)
COLUMNS = (EAGER, COMPILE, ORT, ONNXSIM, ONNXSLIM, OPENVINO, OURS, OURS_OPENVINO)
PEAKS, SIDE = ("torch.mm", "MatMul"), 512  # square matrix products that fit the caches as a convolution's tiles do
MAX_ERROR = 1e-4  # of the largest output: a rival with a larger error computes a different function


@dataclass(frozen=True)
class Cell:
    """One model at one batch: timing series, the machine's state, reasons for missing rivals, and the largest error.

    `macs` are the multiply-accumulates of the batch.
    """

    model: str
    batch: int
    timings: Mapping[str, TimingSeries]
    conditions: Conditions
    missing: Mapping[str, str]
    error: float
    macs: int

    @property
    def useful(self) -> float:
        """The model's rate of multiply-accumulates as a share of the faster matrix product's rate."""
        peak = SIDE**3 / min(np.median(self.timings[name].wall_ms) for name in PEAKS)
        return float(self.macs / np.median(self.timings[OURS].wall_ms) / peak)

    def ratio(self, slow: str, clock: str = "wall_ms") -> Ratio:
        """The speed-up of the shipped graph over `slow`."""
        return benchmark_ratio.ratio(getattr(self.timings[slow], clock), getattr(self.timings[OURS], clock))

    def best_ratio(self) -> Ratio:
        """The speed-up of our graph in the better runtime over the plain graph in the better runtime."""
        slow, fast = (
            min((self.timings[name].wall_ms for name in names if name in self.timings), key=np.median)
            for names in ((ORT, OPENVINO), (OURS, OURS_OPENVINO))
        )
        return benchmark_ratio.ratio(slow, fast)

    def uneven(self) -> str | None:
        """Why the wall clock cannot be compared here, or None."""
        compared = {name: self.timings[name] for name in (ORT, OURS)}
        return self.conditions.uneven or comparison.most_delayed(compared, self.conditions.threads)


def matrix_products(stack: ExitStack, threads: int) -> dict[str, Callable[[], Any]]:
    """One matrix product by torch and by ONNX Runtime, because on some processors one of them is far below the peak."""
    a, b, out = (torch.rand(SIDE, SIDE) for _ in range(3))
    source, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in "ac")
    weight, node = numpy_helper.from_array(b.numpy(), "b"), helper.make_node("MatMul", ["a", "b"], ["c"])
    graph, opset = (
        helper.make_graph([node], "product", [source], [result], [weight]),
        helper.make_opsetid("", rivals.OPSET),
    )
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    session = stack.enter_context(onnxruntime.start(model.SerializeToString(), "cpu", threads))
    return dict(zip(PEAKS, (partial(torch.mm, a, b, out=out), partial(session, a=a.numpy())), strict=True))


def measure(model: str, batch: int, args: argparse.Namespace, folder: Path) -> Cell:
    """Times all rivals at one batch; raises StageFailed if the outputs of one differ from eager's."""
    weights, golden, *_, ours = runner.run(Job(catalog.find(model), Options()), STAGES, folder / model)
    assert ours.kind is Kind.GRAPH
    inputs = checks.first_cases(read(golden.path).inputs, batch)
    graph = rivals.export_onnx(weights.path, inputs)
    starters = rivals.rivals(weights.path, graph, ours.path, args.threads, inputs, compiled=args.compile)
    with ExitStack() as stack:
        results = {name: _open(stack, start, inputs) for name, start in starters.items()}
        missing = {name: reason for name, reason in results.items() if isinstance(reason, str)}
        sessions = {name: session for name, session in results.items() if not isinstance(session, str)}
        error = largest_error(sessions, inputs)
        calls: dict[str, Callable[[], object]] = {
            name: partial(session, **inputs) for name, session in sessions.items()
        }
        calls |= matrix_products(stack, args.threads)
        timings, conditions = machine_state.time_watched(
            calls, args.seconds, args.threads, warm_up_seconds=1.0, most=1000
        )
    return Cell(model, batch, timings, conditions, missing, error, (catalog.find(model).macs or 0) * batch)


def _open(stack: ExitStack, start: Callable[[], AbstractContextManager[Session]], inputs: Arrays) -> Session | str:
    """A session that has run once, or why there is none."""
    try:
        session = stack.enter_context(start())
        session(**inputs)
    except (MissingBackend, StageFailed) as error:
        return str(error)
    return session


def largest_error(sessions: Mapping[str, Session], inputs: Arrays) -> float:
    """The largest error relative to eager; raises StageFailed if it exceeds MAX_ERROR."""
    expected = sessions[EAGER](**inputs)
    errors = {name: metrics.compare(session(**inputs), expected).max_error for name, session in sessions.items()}
    worst = max(errors, key=lambda name: errors[name])
    if errors[worst] > MAX_ERROR:
        raise StageFailed(f"the outputs of {worst} differ: error {errors[worst]:.1e}", "exclude it from the comparison")
    return errors[worst]


def row(cell: Cell) -> str:
    """A row of the table: medians in milliseconds, ratios with their intervals."""
    times = [f"{np.median(cell.timings[name].wall_ms):.2f}" if name in cell.timings else "–" for name in COLUMNS]
    ratios = [_ratio(cell, ORT), _ratio(cell, OPENVINO), _shown(cell.best_ratio()), _ratio(cell, ORT, "cpu_ms")]
    machine_word = "uneven" if cell.uneven() else "even"
    rounds = str(len(cell.timings[OURS].wall_ms))
    cells = [
        cell.model,
        str(cell.batch),
        *times,
        *ratios,
        f"{cell.useful:.2f}",
        f"{cell.error:.0e}",
        rounds,
        machine_word,
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(cell: Cell, slow: str, clock: str = "wall_ms") -> str:
    if slow not in cell.timings:
        return "–"
    return _shown(cell.ratio(slow, clock))


def _shown(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def header(args: argparse.Namespace) -> list[str]:
    """The title, the conditions of the measurement and the names of the columns."""
    threads = "1 thread" if args.threads == 1 else f"{args.threads} threads"
    names = ["model", "batch", *(f"{name} ms" for name in COLUMNS), "× ORT", "× OpenVINO", f"× {BOTH}"]
    names += ["× ORT by CPU time"]
    names += ["useful", "error", "rounds", "machine"]
    return [
        f"# Peers, {threads}",
        "",
        f"{machine.cpu()}, Python {platform.python_version()}, {rivals.versions()}; {time.strftime('%Y-%m-%d')}.",
        "Medians of interleaved rounds, ratios with 95 % intervals. `useful` is the model's rate of",
        f"multiply-accumulates as a share of the rate of a matrix product ({SIDE}³) timed in the same rounds, by torch",
        f"or ONNX Runtime, whichever is faster. `× {BOTH}` is our graph in its better runtime against the plain",
        "graph in its better one. `machine` tells whether the load was even enough for the wall clock.",
        "",
        f"| {' | '.join(names)} |",
        f"|{'---|' * len(names)}",
    ]


def notes(cells: list[Cell], threads: int) -> list[str]:
    """The goals and the missing rivals."""
    lines = ["", "Goals:", ""]
    for cell in cells:
        ratios = {name: cell.ratio(name) for name in (ORT, OPENVINO) if name in cell.timings}
        ratios[BOTH] = cell.best_ratio()
        lines += [f"- {line}" for line in goals.report_lines(cell.model, cell.batch, threads, ratios, cell.uneven())]
    missing = dict.fromkeys(f"- {name} is missing: {reason}" for cell in cells for name, reason in cell.missing.items())
    return [*lines, *missing]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=ZOO)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each model and batch")
    parser.add_argument("--compile", action="store_true", help="include torch.compile, which takes minutes a row")
    parser.add_argument("--out", type=Path, help="file for the table, written after each row")
    args = parser.parse_args()
    lines, cells = header(args), list[Cell]()
    sys.stdout.write("\n".join(lines) + "\n")
    with tempfile.TemporaryDirectory() as name, eager.using_threads(args.threads):
        for model in args.models:
            for batch in args.batch:
                try:
                    cells.append(measure(model, batch, args, Path(name)))
                except DeployError as error:
                    sys.stdout.write(f"{model} batch {batch}: {error}\n")
                    continue
                lines.append(row(cells[-1]))
                sys.stdout.write(lines[-1] + "\n")
                sys.stdout.flush()
                if args.out:
                    args.out.write_text("\n".join([*lines, *notes(cells, args.threads)]) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(notes(cells, args.threads)) + "\n")


if __name__ == "__main__":
    main()
