"""Times the zoo's shipped graphs in turn with every peer, in one process: `make bench`.

All run on the same number of threads, from and to host memory; the peak is that of matrix products timed in the same
rounds. `--out FILE` writes the table as it grows.
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
from tests.bench.goals import OPENVINO, PLAIN
from tests.bench.rivals import COMPILE, EAGER, ONNXSIM, ONNXSLIM, OURS

ZOO = (
    *("mixnet_s", "mixnet_m", "mixnet_l"),
    *("shufflenet_g1", "shufflenet_g2", "shufflenet_g3", "shufflenet_g4", "shufflenet_g8"),
    *("mobilenet_v1", "squeezenet1_0", "squeezenet1_1"),
)
ROAD = (Stage.LOAD, Stage.GOLDEN, Stage.EXPORT, Stage.SIMPLIFY, Stage.REWRITE)
COLUMNS = (EAGER, COMPILE, PLAIN, ONNXSIM, ONNXSLIM, OPENVINO, OURS)
PEAKS, SIDE = ("torch.mm", "MatMul"), 512  # square matrix products that fit the caches as a convolution's tiles do
CLOSE = 1e-4  # of the largest output: a peer that strays further computes something else


@dataclass(frozen=True)
class Cell:
    """One model at one batch: every way's series, what the machine did, what was not there, and the largest error.

    `macs` are the multiply-accumulates of the batch.
    """

    model: str
    batch: int
    taken: Mapping[str, TimingSeries]
    seen: Conditions
    missing: Mapping[str, str]
    error: float
    macs: int

    @property
    def useful(self) -> float:
        """The share that the model's own multiply-accumulates make of what the faster matrix product does in a time."""
        peak = SIDE**3 / min(np.median(self.taken[name].wall_ms) for name in PEAKS)
        return float(self.macs / np.median(self.taken[OURS].wall_ms) / peak)

    def ratio(self, slow: str, clock: str = "wall_ms") -> Ratio:
        """How many times faster than `slow` the shipped graph is."""
        return benchmark_ratio.ratio(getattr(self.taken[slow], clock), getattr(self.taken[OURS], clock))

    def uneven(self) -> str | None:
        """What stands against comparing by the wall clock here."""
        compared = {name: self.taken[name] for name in (PLAIN, OURS)}
        return self.seen.uneven or comparison.most_delayed(compared, self.seen.threads)


def products(stack: ExitStack, threads: int) -> dict[str, Callable[[], Any]]:
    """The same matrix product by torch and by ONNX Runtime: on some processors one of them stays far below the peak."""
    a, b, out = (torch.rand(SIDE, SIDE) for _ in range(3))
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in "ac")
    weight, node = numpy_helper.from_array(b.numpy(), "b"), helper.make_node("MatMul", ["a", "b"], ["c"])
    graph, opset = (
        helper.make_graph([node], "product", [given], [made], [weight]),
        helper.make_opsetid("", rivals.OPSET),
    )
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    session = stack.enter_context(onnxruntime.start(model.SerializeToString(), "cpu", threads))
    return dict(zip(PEAKS, (partial(torch.mm, a, b, out=out), partial(session, a=a.numpy())), strict=True))


def measured(model: str, batch: int, asked: argparse.Namespace, folder: Path) -> Cell:
    """All peers at one batch; raises StageFailed if one of them computes something else than eager."""
    weights, recorded, *_, ours = runner.run(Job(catalog.find(model), Options()), ROAD, folder / model)
    assert ours.kind is Kind.GRAPH
    inputs = checks.first_cases(read(recorded.path).inputs, batch)
    graph = rivals.plain(weights.path, inputs)
    ways = rivals.rivals(weights.path, graph, ours.path, asked.threads, inputs, compiled=asked.compile)
    with ExitStack() as stack:
        tried = {name: _opened(stack, start, inputs) for name, start in ways.items()}
        missing = {name: each for name, each in tried.items() if isinstance(each, str)}
        sessions = {name: each for name, each in tried.items() if not isinstance(each, str)}
        error = largest_error(sessions, inputs)
        calls: dict[str, Callable[[], object]] = {name: partial(each, **inputs) for name, each in sessions.items()}
        calls |= products(stack, asked.threads)
        taken, seen = machine_state.time_watched(calls, asked.seconds, asked.threads, warm_up_seconds=1.0, most=1000)
    return Cell(model, batch, taken, seen, missing, error, (catalog.find(model).macs or 0) * batch)


def _opened(stack: ExitStack, start: Callable[[], AbstractContextManager[Session]], inputs: Arrays) -> Session | str:
    """The session, once it has answered, or why there is none."""
    try:
        session = stack.enter_context(start())
        session(**inputs)
    except (MissingBackend, StageFailed) as error:
        return str(error)
    return session


def largest_error(sessions: Mapping[str, Session], inputs: Arrays) -> float:
    expected = sessions[EAGER](**inputs)
    errors = {name: metrics.compare(session(**inputs), expected).max_error for name, session in sessions.items()}
    worst = max(errors, key=lambda name: errors[name])
    if errors[worst] > CLOSE:
        raise StageFailed(f"{worst} computes something else: error {errors[worst]:.1e}", "compare nothing with it")
    return errors[worst]


def row(cell: Cell) -> str:
    """The cell as a row of the table: medians in milliseconds, ratios with their intervals."""
    times = [f"{np.median(cell.taken[name].wall_ms):.2f}" if name in cell.taken else "–" for name in COLUMNS]
    ratios = [_ratio(cell, PLAIN), _ratio(cell, OPENVINO), _ratio(cell, PLAIN, "cpu_ms")]
    doubt = "uneven" if cell.uneven() else "even"
    rounds = str(len(cell.taken[OURS].wall_ms))
    cells = [cell.model, str(cell.batch), *times, *ratios, f"{cell.useful:.2f}", f"{cell.error:.0e}", rounds, doubt]
    return f"| {' | '.join(cells)} |"


def _ratio(cell: Cell, slow: str, clock: str = "wall_ms") -> str:
    if slow not in cell.taken:
        return "–"
    found = cell.ratio(slow, clock)
    return f"{found.value:.2f} ({found.low:.2f}–{found.high:.2f})"


def head(asked: argparse.Namespace) -> list[str]:
    """On what this was measured, and the names of the columns."""
    threads = "1 thread" if asked.threads == 1 else f"{asked.threads} threads"
    names = ["model", "batch", *(f"{name} ms" for name in COLUMNS), "× ORT", "× OpenVINO", "× ORT by CPU time"]
    names += ["useful", "error", "rounds", "machine"]
    return [
        f"# Peers, {threads}",
        "",
        f"{machine.cpu()}, Python {platform.python_version()}, {rivals.versions()}; {time.strftime('%Y-%m-%d')}.",
        "Medians of interleaved rounds, ratios with 95 % intervals. `useful` is the share that the model's own",
        f"multiply-accumulates make of the rate of a matrix product ({SIDE}³) timed in the same rounds, by torch or by",
        "ONNX Runtime, whichever is faster. `machine` says whether it was even enough to trust the wall clock.",
        "",
        f"| {' | '.join(names)} |",
        f"|{'---|' * len(names)}",
    ]


def notes(cells: list[Cell], threads: int) -> list[str]:
    """The goals, and what was missing."""
    lines = ["", "Goals:", ""]
    for cell in cells:
        ratios = {name: cell.ratio(name) for name in (PLAIN, OPENVINO) if name in cell.taken}
        lines += [f"- {line}" for line in goals.told(cell.model, cell.batch, threads, ratios, cell.uneven())]
    missing = dict.fromkeys(f"- {name} was not there: {why}" for cell in cells for name, why in cell.missing.items())
    return [*lines, *missing]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=ZOO)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each model and batch")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: minutes for each model and batch")
    parser.add_argument("--out", type=Path, help="write the table there, after each row")
    asked = parser.parse_args()
    lines, cells = head(asked), list[Cell]()
    sys.stdout.write("\n".join(lines) + "\n")
    with tempfile.TemporaryDirectory() as name, eager.using_threads(asked.threads):
        for model in asked.models:
            for batch in asked.batch:
                try:
                    cells.append(measured(model, batch, asked, Path(name)))
                except DeployError as error:
                    sys.stdout.write(f"{model} batch {batch}: {error}\n")
                    continue
                lines.append(row(cells[-1]))
                sys.stdout.write(lines[-1] + "\n")
                sys.stdout.flush()
                if asked.out:
                    asked.out.write_text("\n".join([*lines, *notes(cells, asked.threads)]) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(notes(cells, asked.threads)) + "\n")


if __name__ == "__main__":
    main()
