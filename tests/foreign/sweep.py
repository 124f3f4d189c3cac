"""Exports architectures of other projects and compares every verdict with FP64 references: `make foreign`.

Results are JSON lines in `--results`; an interrupted sweep resumes there. A cell that exceeds the time limit counts as
too late, and its worker is killed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path

from deploytool.host import machine
from tests.foreign import cells as foreign_cells
from tests.foreign.table import EXPORTERS, NET_TABLE, SEEDS, SIZES, Cell, cells

HEADING = "## What was found"


def run_cells(pipe: Connection, folder: str) -> None:
    """Runs the cells received through a pipe until None is received."""
    import torch

    torch.set_num_threads(1)
    while (cell := pipe.recv()) is not None:
        pipe.send(foreign_cells.measure(cell, Path(folder)))


class Worker:
    """A process that runs cells one after the other, and its present cell."""

    def __init__(self, folder: str) -> None:
        self.folder, self.started = folder, 0.0
        self.cell: Cell | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, child_end = context.Pipe()
        self.process = context.Process(target=run_cells, args=(child_end, self.folder), daemon=False)
        self.process.start()
        child_end.close()

    def submit(self, cell: Cell) -> None:
        """Starts a cell."""
        self.cell, self.started = cell, time.monotonic()
        self.pipe.send(cell)

    def poll(self, limit: float) -> foreign_cells.Result | None:
        """The result, or None if there is none yet; kills a worker after `limit` seconds and starts another."""
        assert self.cell is not None
        try:
            if self.pipe.poll(0.05):
                result: foreign_cells.Result = self.pipe.recv()
                return result
            problem = "" if time.monotonic() - self.started < limit else f"not done in {limit:g} s"
        except EOFError:
            problem = "the process ended"
        if not problem:
            return None
        self.process.kill()
        self.process.join()
        self._start()
        late = foreign_cells.Outcome.LATE.value
        return foreign_cells.Result(
            self.cell.name, late, foreign_cells.Agreement.UNCLEAR.value, problem, time.monotonic() - self.started
        )

    def stop(self) -> None:
        """Ends the process."""
        self.pipe.send(None)
        self.process.join()


def run_sweep(todo: list[Cell], jobs: int, limit: float) -> Iterator[foreign_cells.Result]:
    """Yields the result of every cell as it completes."""
    waiting = list(reversed(todo))
    with tempfile.TemporaryDirectory() as folder:
        workers = [Worker(f"{folder}/{number}") for number in range(min(jobs, len(todo)))]
        busy = list(workers)
        for worker in busy:
            worker.submit(waiting.pop())
        while busy:
            for worker in list(busy):
                if (result := worker.poll(limit)) is None:
                    continue
                yield result
                busy.remove(worker)
                if waiting:
                    worker.submit(waiting.pop())
                    busy.append(worker)
        for worker in workers:
            worker.stop()


def read(results: Path) -> dict[str, foreign_cells.Result]:
    """The results so far; the last one of a cell counts."""
    if not results.is_file():
        return {}
    complete = [line for line in results.read_text().splitlines() if line.endswith("}")]
    return {record["name"]: foreign_cells.Result(**record) for record in map(json.loads, complete)}


def to_json(result: foreign_cells.Result) -> str:
    """A result as a line of the results file."""
    return json.dumps(asdict(result))


def table(results: dict[str, foreign_cells.Result]) -> Iterator[str]:
    """The results as a Markdown table with a row for each architecture, and the counts of agreements."""
    yield "| architecture | exports | pass | refused | largest FP32 error | largest FP16 error | disagrees |"
    yield "|---|---|---|---|---|---|---|"
    by_net: defaultdict[str, list[foreign_cells.Result]] = defaultdict(list)
    for name, result in results.items():
        by_net[name.partition("/")[0]].append(result)
    for net in NET_TABLE:
        rows = by_net.get(net.factory, [])
        if rows:
            passed = [row for row in rows if row.outcome == foreign_cells.Outcome.PASS.value]
            wrong = Counter(row.agreement for row in rows if row.agreement != foreign_cells.Agreement.AGREES.value)
            errors = [
                f"{max((getattr(row, precision) for row in passed), default=0):.1e}" for precision in ("fp32", "fp16")
            ]
            disagreements = ", ".join(f"{count} {word}" for word, count in wrong.items()) or "–"
            shown = errors if passed else ["–", "–"]
            counts = f"{len(rows)} | {len(passed)} | {len(rows) - len(passed)}"
            yield f"| {net.factory} | {counts} | {' | '.join(shown)} | {disagreements} |"
    counts_by_agreement = Counter(result.agreement for result in results.values())
    yield ""
    yield f"{len(results)} exports: " + ", ".join(
        f"{counts_by_agreement[kind.value]} {kind.value}" for kind in foreign_cells.Agreement
    )


def write_page(results: dict[str, foreign_cells.Result], page: Path) -> None:
    """Replaces the table on a page and lists every false pass and false refusal."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "onnx", "onnxruntime"))
    total = sum(1 for _ in cells())
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {machine.cpu()}, {versions}; {len(results)} of {total} exports:",
        "",
        *table(results),
        "",
        *(
            f"- `{result.name}`: {result.outcome}, {result.agreement}: {result.message or result.worst}"
            for result in results.values()
            if result.agreement
            in (foreign_cells.Agreement.FALSE_PASS.value, foreign_cells.Agreement.FALSE_REFUSAL.value)
        ),
    ]
    before = page.read_text().partition(HEADING)[0]
    page.write_text("\n".join([before + HEADING, "", *lines]).rstrip() + "\n")


def main() -> None:
    """Runs the cells without a result and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("artifacts/foreign.jsonl"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=180.0, help="time limit of a cell in seconds")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--exporters", nargs="+", default=EXPORTERS)
    parser.add_argument("--nets", nargs="+", help="architectures to run; default: all")
    parser.add_argument("--page", type=Path, help="Markdown page whose table is replaced")
    parser.add_argument("--again", action="store_true", help="repeat cells that have a result")
    args = parser.parse_args()
    done = {} if args.again else read(args.results)
    todo = [
        cell
        for cell in cells(tuple(args.seeds), tuple(args.sizes))
        if cell.name not in done
        and cell.exporter in args.exporters
        and (not args.nets or cell.net.factory in args.nets)
    ]
    args.results.parent.mkdir(parents=True, exist_ok=True)
    with args.results.open("a") as lines:
        for number, result in enumerate(run_sweep(todo, args.jobs, args.limit), start=1):
            lines.write(to_json(result) + "\n")
            lines.flush()
            if result.agreement != foreign_cells.Agreement.AGREES.value:
                print(f"{number}/{len(todo)} {result.name}: {result.outcome}, {result.agreement}: "
                      f"{result.message[:200]!r} [{result.worst}]", flush=True)  # fmt: skip
    print("\n".join(table(read(args.results))))
    if args.page:
        write_page(read(args.results), args.page)


if __name__ == "__main__":
    main()
