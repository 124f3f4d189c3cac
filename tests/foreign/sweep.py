"""Sweeps architectures that are not ours and holds every verdict against the truth: `make foreign`.

Results are JSON lines in `--results`; a sweep that was stopped goes on where it was. Each cell has a time limit, after
which its worker is ended and the cell counts as too late.
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
from tests.foreign import cells as one
from tests.foreign.table import EXPORTERS, NET_TABLE, SEEDS, SIZES, Cell, cells

HEADING = "## What was found"


def work(pipe: Connection, folder: str) -> None:
    """Does the cells that come through a pipe until None comes."""
    import torch

    torch.set_num_threads(1)
    while (cell := pipe.recv()) is not None:
        pipe.send(one.measured(cell, Path(folder)))


class Worker:
    """A process for cells, and the cell it is at."""

    def __init__(self, folder: str) -> None:
        self.folder, self.since = folder, 0.0
        self.cell: Cell | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.folder), daemon=False)
        self.process.start()
        theirs.close()

    def give(self, cell: Cell) -> None:
        """Starts a cell."""
        self.cell, self.since = cell, time.monotonic()
        self.pipe.send(cell)

    def answer(self, limit: float) -> one.Result | None:
        """The result if there is one; a late worker is ended, and so is what it was doing."""
        assert self.cell is not None
        try:
            if self.pipe.poll(0.05):
                result: one.Result = self.pipe.recv()
                return result
            why = "" if time.monotonic() - self.since < limit else f"not done in {limit:g} s"
        except EOFError:
            why = "the process ended"
        if not why:
            return None
        self.process.kill()
        self.process.join()
        self._start()
        late = one.Outcome.LATE.value
        return one.Result(self.cell.name, late, one.Agreement.UNCLEAR.value, why, time.monotonic() - self.since)

    def end(self) -> None:
        """Lets the process go."""
        self.pipe.send(None)
        self.process.join()


def swept(todo: list[Cell], jobs: int, limit: float) -> Iterator[one.Result]:
    """The result of every cell as it comes."""
    waiting = list(reversed(todo))
    with tempfile.TemporaryDirectory() as folder:
        workers = [Worker(f"{folder}/{number}") for number in range(min(jobs, len(todo)))]
        busy = list(workers)
        for worker in busy:
            worker.give(waiting.pop())
        while busy:
            for worker in list(busy):
                if (result := worker.answer(limit)) is None:
                    continue
                yield result
                busy.remove(worker)
                if waiting:
                    worker.give(waiting.pop())
                    busy.append(worker)
        for worker in workers:
            worker.end()


def read(results: Path) -> dict[str, one.Result]:
    """The results so far; the last of a cell counts."""
    if not results.is_file():
        return {}
    whole = [each for each in results.read_text().splitlines() if each.endswith("}")]
    return {each["name"]: one.Result(**each) for each in map(json.loads, whole)}


def line(result: one.Result) -> str:
    """A result as the file has it."""
    return json.dumps(asdict(result))


def table(found: dict[str, one.Result]) -> Iterator[str]:
    """The results as a Markdown table, a row an architecture, and their counts."""
    yield "| architecture | exports | pass | refused | largest FP32 error | largest FP16 error | disagrees |"
    yield "|---|---|---|---|---|---|---|"
    by_net: defaultdict[str, list[one.Result]] = defaultdict(list)
    for name, result in found.items():
        by_net[name.partition("/")[0]].append(result)
    for net in NET_TABLE:
        rows = by_net.get(net.factory, [])
        if rows:
            passed = [row for row in rows if row.outcome == one.Outcome.PASS.value]
            wrong = Counter(row.agreement for row in rows if row.agreement != one.Agreement.AGREES.value)
            errors = [f"{max((getattr(row, way) for row in passed), default=0):.1e}" for way in ("fp32", "fp16")]
            said = ", ".join(f"{count} {word}" for word, count in wrong.items()) or "–"
            shown = errors if passed else ["–", "–"]
            counts = f"{len(rows)} | {len(passed)} | {len(rows) - len(passed)}"
            yield f"| {net.factory} | {counts} | {' | '.join(shown)} | {said} |"
    counted = Counter(result.agreement for result in found.values())
    yield ""
    yield f"{len(found)} exports: " + ", ".join(f"{counted[each.value]} {each.value}" for each in one.Agreement)


def written(found: dict[str, one.Result], page: Path) -> None:
    """Puts the table onto a page in place of the one there, with what is left to say of every disagreement."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "onnx", "onnxruntime"))
    wanted = sum(1 for _ in cells())
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {machine.cpu()}, {versions}; {len(found)} of {wanted} exports:",
        "",
        *table(found),
        "",
        *(
            f"- `{each.name}`: {each.outcome}, {each.agreement}: {each.said or each.worst}"
            for each in found.values()
            if each.agreement in (one.Agreement.FALSE_PASS.value, one.Agreement.FALSE_REFUSAL.value)
        ),
    ]
    before = page.read_text().partition(HEADING)[0]
    page.write_text("\n".join([before + HEADING, "", *lines]).rstrip() + "\n")


def main() -> None:
    """Sweeps what has no result yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("artifacts/foreign.jsonl"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds a cell may take")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--exporters", nargs="+", default=EXPORTERS)
    parser.add_argument("--nets", nargs="+", help="which architectures; all without it")
    parser.add_argument("--page", type=Path, help="the page whose table is to be the one of these results")
    parser.add_argument("--again", action="store_true", help="also what has a result")
    asked = parser.parse_args()
    done = {} if asked.again else read(asked.results)
    todo = [
        cell
        for cell in cells(tuple(asked.seeds), tuple(asked.sizes))
        if cell.name not in done
        and cell.exporter in asked.exporters
        and (not asked.nets or cell.net.factory in asked.nets)
    ]
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    with asked.results.open("a") as lines:
        for number, result in enumerate(swept(todo, asked.jobs, asked.limit), start=1):
            lines.write(line(result) + "\n")
            lines.flush()
            if result.agreement != one.Agreement.AGREES.value:
                print(f"{number}/{len(todo)} {result.name}: {result.outcome}, {result.agreement}: "
                      f"{result.said[:200]!r} [{result.worst}]", flush=True)  # fmt: skip
    print("\n".join(table(read(asked.results))))
    if asked.page:
        written(read(asked.results), asked.page)


if __name__ == "__main__":
    main()
