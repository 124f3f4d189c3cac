"""Tampers with everything that deploytool reads and checks how commands handle it. `make fuzz` runs it.

Each batch of cases is forked from a process that has imported everything. A case that ends or hangs the fork counts as
a fault, and the batch continues after it. Results are stored, so that an interrupted campaign can be resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tests.fuzz import artifacts, judge, model_files
from tests.fuzz.artifacts import Artifacts
from tests.fuzz.bundles import Bundles
from tests.fuzz.documents import Documents
from tests.fuzz.graphs import Graphs
from tests.fuzz.image_files import Images
from tests.fuzz.judge import CHILDREN, Case
from tests.fuzz.model_files import Models

KINDS: dict[str, Any] = {
    "bundles": Bundles,
    "documents": Documents,
    "graphs": Graphs,
    "models": Models,
    "pictures": Images,
}
COUNTS = {"bundles": 10_000, "documents": 2_000, "graphs": 6_000, "models": 2_000, "pictures": 2_000}
BATCH, BATCHES = 250, {"models": 50}  # cases in one fork; those of models take seconds
STUCK_S = 240.0  # time limit of one case with all its commands, in seconds
MAX_EXTRA_MIB = 256.0  # by which memory may exceed that of a clean run


@dataclass
class Batch:
    """The results of a batch of cases."""

    cases: int = 0
    commands: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    more_mib: float = 0.0
    child_mib: float = 0.0
    child_s: float = 0.0
    children: int = 0
    seconds: float = 0.0

    def add(self, other: Batch) -> None:
        """Adds the results of another batch."""
        for name in ("cases", "commands", "children", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.codes.update(other.codes)
        self.kinds.update(other.kinds)
        self.faults += other.faults
        for name in ("more_mib", "child_mib", "child_s"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))


def case_random(kind: str, seed: int, number: int) -> random.Random:
    """The random generator of one case, independent of other cases."""
    return random.Random(f"{kind} {seed} {number}")


def run_cases(
    kind: str, original: Artifacts, scratch: Path, seed: int, numbers: range, results: Path, *, measures: bool
) -> None:
    """Runs cases in this process, and appends a line to `results` for each.

    With `measures`, it makes a clean run first and compares the memory of each case with that.
    """
    campaign_kind, clean_mib, clean_child_mib = KINDS[kind](original, scratch), 0.0, 0.0
    if measures:
        clean = Case("clean")
        judge.forget_peak()
        campaign_kind.clean(clean)
        clean_mib, clean_child_mib = judge.peak_mib(), CHILDREN.mib
        if clean.faults:
            raise AssertionError(clean.faults)
    for number in numbers:
        results.with_suffix(".now").write_text(str(number), encoding="ascii")
        judge.forget_peak()
        CHILDREN.reset()
        start = time.monotonic()
        case = campaign_kind.case(case_random(kind, seed, number))
        result = Batch(1, len(case.codes), Counter(case.codes), Counter([case.what]), seconds=time.monotonic() - start)
        if measures:
            result.more_mib = judge.peak_mib() - clean_mib
            result.child_mib = max(CHILDREN.mib - clean_child_mib, 0.0)
            limits = (getattr(campaign_kind, name, MAX_EXTRA_MIB) for name in ("most_extra_mib", "most_child_mib"))
            _check_memory(case, result, *limits)
        result.child_s, result.children = CHILDREN.seconds, CHILDREN.count
        result.faults = [f"{kind} {number}: {text}" for text in case.faults]
        _append(results, result)


def _check_memory(case: Case, result: Batch, most_extra_mib: float, most_child_mib: float) -> None:
    """Adds a fault for high memory use; a child may use what its manifest states, which a forged manifest can raise."""
    if result.more_mib > most_extra_mib:
        case.add_fault(f"it used {result.more_mib:.0f} MiB more than a clean run")
    if result.child_mib > most_child_mib and not case.what.startswith("manifest "):
        case.add_fault(f"its child used {result.child_mib:.0f} MiB more than a clean run's")


def _append(results: Path, result: Batch) -> None:
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(vars(result)) + "\n")


def run_batch(
    kind: str, original: Artifacts, seed: int, numbers: range, results: Path, *, measures: bool = True
) -> None:
    """Runs cases in forks; after a case that ends a fork, another fork continues with the next case."""
    results.touch()
    while (done := len(results.read_text(encoding="utf-8").splitlines())) < len(numbers):
        remaining, current = numbers[done:], results.with_suffix(".now")
        current.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=results.parent) as scratch:
            log = Path(scratch, "log")
            child = os.fork() or _run_in_fork(
                kind, original, Path(scratch, "scratch"), seed, remaining, results, log, measures
            )
            status = _wait(child, current)
            if status == 0:
                continue
            if not current.exists():
                raise AssertionError(f"{kind}: a clean run fails: {log.read_text(errors='replace')[-2000:]}")
            problem = "it hung" if status is None else f"it ended the process with {status}"
            output = log.read_text(errors="replace")[-500:] if log.exists() else ""
            _append(results, Batch(1, faults=[f"{kind} {current.read_text()}: {problem} {output}"]))
    results.with_suffix(".now").unlink(missing_ok=True)


def _run_in_fork(
    kind: str, original: Artifacts, scratch: Path, seed: int, numbers: range, results: Path, log: Path, measures: bool
) -> NoReturn:
    code = 1
    try:
        scratch.mkdir()
        os.chdir(scratch)
        os.environ["HOME"] = os.environ["TMPDIR"] = str(scratch.parent)
        tempfile.tempdir = None
        run_cases(kind, original, scratch, seed, numbers, results, measures=measures)
        code = 0
    except BaseException:
        log.write_text(traceback.format_exc(), encoding="utf-8")
    finally:
        os._exit(code)


def _wait(child: int, current: Path) -> int | None:
    """The exit status of a fork; None if one case exceeded its time limit and the fork was killed."""
    last, started = "", time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        text = current.read_text() if current.exists() else ""
        if text != last:
            last, started = text, time.monotonic()
        if time.monotonic() - started > STUCK_S:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.05)


def read(results: Path) -> Batch:
    """The stored results of a batch."""
    total = Batch()
    for line in results.read_text(encoding="utf-8").splitlines():
        data = json.loads(line)
        total.add(Batch(**{**data, "codes": Counter(data["codes"]), "kinds": Counter(data["kinds"])}))
    return total


def campaign(kind: str, count: int, original: Artifacts, state: Path, args: argparse.Namespace) -> Batch:
    """Runs all cases of a kind in parallel batches; the stored results of earlier calls are reused."""
    size = BATCHES.get(kind, BATCH)
    batches = [range(start, min(start + size, count)) for start in range(0, count, size)]
    workers = [
        os.fork() or _worker(job, kind, batches[job :: args.jobs], original, state, args) for job in range(args.jobs)
    ]
    failed = [os.waitpid(worker, 0)[1] for worker in workers]
    if any(failed):
        raise AssertionError(f"{kind}: a worker failed, see above")
    total = Batch()
    for numbers in batches:
        total.add(read(_results_path(state, kind, args.seed, numbers)))
    return total


def _worker(
    job: int, kind: str, batches: Sequence[range], original: Artifacts, state: Path, args: argparse.Namespace
) -> NoReturn:
    """Runs some of the batches in a fork pinned to one processor."""
    code = 1
    try:
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[job % len(processors)]})
        for numbers in batches:
            results = _results_path(state, kind, args.seed, numbers)
            run_batch(kind, original, args.seed, numbers, results, measures=not args.quick)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _results_path(state: Path, kind: str, seed: int, numbers: range) -> Path:
    return state / f"{kind}-{seed}-{numbers.start}-{numbers.stop}.jsonl"


def summary(kind: str, total: Batch) -> str:
    """The results of a campaign in one line."""
    codes = ", ".join(f"{count} with {code}" for code, count in sorted(total.codes.items()))
    return (
        f"{kind}: {total.cases} cases, {total.commands} commands, {total.seconds:.0f} s: {len(total.faults)} faults; "
        f"at most {total.more_mib:+.0f} MiB in the process and {total.child_mib:+.0f} MiB in a child, against a clean "
        f"run; {total.children} children, the longest {total.child_s:.1f} s; ended {codes}"
    )


def _prepare(home: Path) -> Artifacts:
    """Prepares the artifacts in a fork, because a process that has run a model has threads and must not be forked."""
    child = os.fork()
    if not child:
        code = 1
        try:
            artifacts.prepare(home)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise AssertionError("the artifacts could not be prepared: the export failed")
    return Artifacts(home)


def main() -> None:
    """Runs the campaigns and prints their results; exits with 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    for kind, count in COUNTS.items():
        parser.add_argument(f"--{kind}", type=int, default=count, metavar="N")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, help="folder of the artifacts and results, for resuming")
    parser.add_argument("--quick", action="store_true", help="do not measure memory")
    parser.add_argument("--one", metavar="KIND:NUMBER", help="run a single case")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        state = args.state or Path(scratch)
        state.mkdir(parents=True, exist_ok=True)
        original = _prepare((state / "artifacts").absolute())
        if args.models or args.one:
            model_files.preload()
        if args.one:
            kind, _, number = args.one.partition(":")
            results = Path(scratch, "one.jsonl")
            run_batch(kind, original, args.seed, range(int(number), int(number) + 1), results, measures=False)
            print(results.read_text(encoding="utf-8"))
            return
        faults = 0
        for kind in COUNTS:
            if count := getattr(args, kind):
                total = campaign(kind, count, original, state.absolute(), args)
                print("\n".join(total.faults), flush=True)
                print(summary(kind, total), flush=True)
                faults += len(total.faults)
    sys.exit(min(faults, 1))


if __name__ == "__main__":
    main()
