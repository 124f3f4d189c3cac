"""Tampers with all that deploytool reads, and holds what comes of it against what is promised. `make fuzz` runs it.

Each batch of cases is a fork of one process that has everything imported; a case that kills or hangs it is counted,
and the batch goes on behind it. What a batch found is kept, so that an interrupted campaign goes on where it was.
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

from tests.fuzz import ground, judge
from tests.fuzz.bundles import Bundles
from tests.fuzz.documents import Documents
from tests.fuzz.graphs import Graphs
from tests.fuzz.ground import Ground
from tests.fuzz.judge import CHILDREN, Case
from tests.fuzz.pictures import Pictures

KINDS: dict[str, Any] = {"bundles": Bundles, "documents": Documents, "graphs": Graphs, "pictures": Pictures}
COUNTS = {"bundles": 10_000, "documents": 2_000, "graphs": 6_000, "pictures": 2_000}
BATCH = 250
STUCK_S = 240.0  # of one case with all its commands
MORE_MIB = 256.0  # beyond a clean run


@dataclass
class Batch:
    """What a batch of cases found."""

    cases: int = 0
    commands: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    whats: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    more_mib: float = 0.0
    child_mib: float = 0.0
    child_s: float = 0.0
    children: int = 0
    seconds: float = 0.0

    def add(self, other: Batch) -> None:
        """Counts another in."""
        for name in ("cases", "commands", "children", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.codes.update(other.codes)
        self.whats.update(other.whats)
        self.faults += other.faults
        for name in ("more_mib", "child_mib", "child_s"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))


def numbered(kind: str, seed: int, number: int) -> random.Random:
    """What draws one case, whichever came before."""
    return random.Random(f"{kind} {seed} {number}")


def cases(kind: str, there: Ground, bench: Path, seed: int, numbers: range, kept: Path, *, measures: bool) -> None:
    """Runs some cases in this process, and adds a line to `kept` for each.

    Only where it `measures` is a clean run made first, which the memory of each case is held against.
    """
    of, usual, usual_child = KINDS[kind](there, bench), 0.0, 0.0
    if measures:
        clean = Case("clean")
        judge.forget_peak()
        of.clean(clean)
        usual, usual_child = judge.peak_mib(), CHILDREN.mib
        if clean.faults:
            raise AssertionError(clean.faults)
    for number in numbers:
        kept.with_suffix(".now").write_text(str(number), encoding="ascii")
        judge.forget_peak()
        CHILDREN.forget()
        begun = time.monotonic()
        case = of.case(numbered(kind, seed, number))
        one = Batch(1, len(case.codes), Counter(case.codes), Counter([case.what]), seconds=time.monotonic() - begun)
        if measures:
            one.more_mib, one.child_mib = judge.peak_mib() - usual, max(CHILDREN.mib - usual_child, 0.0)
            _heavy(case, one)
        one.child_s, one.children = CHILDREN.seconds, CHILDREN.count
        one.faults = [f"{kind} {number}: {text}" for text in case.faults]
        _add(kept, one)


def _heavy(case: Case, one: Batch) -> None:
    """A child may take what the manifest states, which a forged one may raise; nothing else may take more."""
    if one.more_mib > MORE_MIB:
        case.fault(f"it took {one.more_mib:.0f} MiB more than a clean run")
    if one.child_mib > MORE_MIB and not case.what.startswith("manifest "):
        case.fault(f"its child took {one.child_mib:.0f} MiB more than a clean run's")


def _add(kept: Path, one: Batch) -> None:
    with kept.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(vars(one)) + "\n")


def batch(kind: str, there: Ground, seed: int, numbers: range, kept: Path, *, measures: bool = True) -> None:
    """The same in forks, each of which goes on behind the case that killed the one before; what is done is kept."""
    kept.touch()
    while (done := len(kept.read_text(encoding="utf-8").splitlines())) < len(numbers):
        left, now = numbers[done:], kept.with_suffix(".now")
        now.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            said = Path(scratch, "said")
            born = os.fork() or _born(kind, there, Path(scratch, "bench"), seed, left, kept, said, measures)
            status = _watched(born, now)
            if status == 0:
                continue
            if not now.exists():
                raise AssertionError(f"{kind}: a clean run fails: {said.read_text(errors='replace')[-2000:]}")
            word = "it hung" if status is None else f"it ended the process with {status}"
            more = said.read_text(errors="replace")[-500:] if said.exists() else ""
            _add(kept, Batch(1, faults=[f"{kind} {now.read_text()}: {word} {more}"]))
    kept.with_suffix(".now").unlink(missing_ok=True)


def _born(
    kind: str, there: Ground, bench: Path, seed: int, numbers: range, kept: Path, said: Path, measures: bool
) -> NoReturn:
    code = 1
    try:
        bench.mkdir()
        os.chdir(bench)
        os.environ["HOME"] = os.environ["TMPDIR"] = str(bench.parent)
        tempfile.tempdir = None
        cases(kind, there, bench, seed, numbers, kept, measures=measures)
        code = 0
    except BaseException:
        said.write_text(traceback.format_exc(), encoding="utf-8")
    finally:
        os._exit(code)


def _watched(born: int, now: Path) -> int | None:
    """The exit status of a fork; None where it was stuck in one case and had to be killed."""
    last, since = "", time.monotonic()
    while True:
        done, status = os.waitpid(born, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        text = now.read_text() if now.exists() else ""
        if text != last:
            last, since = text, time.monotonic()
        if time.monotonic() - since > STUCK_S:
            os.kill(born, signal.SIGKILL)
            os.waitpid(born, 0)
            return None
        time.sleep(0.05)


def read(kept: Path) -> Batch:
    """All that was kept of a batch."""
    total = Batch()
    for line in kept.read_text(encoding="utf-8").splitlines():
        data = json.loads(line)
        total.add(Batch(**{**data, "codes": Counter(data["codes"]), "whats": Counter(data["whats"])}))
    return total


def campaign(kind: str, count: int, there: Ground, state: Path, given: argparse.Namespace) -> Batch:
    """All cases of a kind, batch by batch, so many at once; what an earlier call finished is read again."""
    batches = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
    workers = [
        os.fork() or _worker(job, kind, batches[job :: given.jobs], there, state, given) for job in range(given.jobs)
    ]
    failed = [os.waitpid(worker, 0)[1] for worker in workers]
    if any(failed):
        raise AssertionError(f"{kind}: a worker failed, see above")
    total = Batch()
    for numbers in batches:
        total.add(read(_kept(state, kind, given.seed, numbers)))
    return total


def _worker(
    job: int, kind: str, batches: Sequence[range], there: Ground, state: Path, given: argparse.Namespace
) -> NoReturn:
    """In a fork with a processor of its own: some of the batches, one after the other."""
    code = 1
    try:
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[job % len(processors)]})
        for numbers in batches:
            kept = _kept(state, kind, given.seed, numbers)
            batch(kind, there, given.seed, numbers, kept, measures=not given.quick)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _kept(state: Path, kind: str, seed: int, numbers: range) -> Path:
    return state / f"{kind}-{seed}-{numbers.start}-{numbers.stop}.jsonl"


def told(kind: str, found: Batch) -> str:
    """What a campaign found, in one line."""
    codes = ", ".join(f"{count} with {code}" for code, count in sorted(found.codes.items()))
    return (
        f"{kind}: {found.cases} cases, {found.commands} commands, {found.seconds:.0f} s: {len(found.faults)} faults; "
        f"at most {found.more_mib:+.0f} MiB in the process and {found.child_mib:+.0f} MiB in a child, against a clean "
        f"run; {found.children} children, the longest {found.child_s:.1f} s; ended {codes}"
    )


def _ground(home: Path) -> Ground:
    """Made in a process of its own: libraries that have run a model here would have threads, which no fork has."""
    child = os.fork()
    if not child:
        code = 1
        try:
            ground.made(home)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise AssertionError("there is nothing to tamper with: the export failed")
    return Ground(home)


def main() -> None:
    """Runs what was asked for and prints what came of it; ends with 1 if there is a fault."""
    asked = argparse.ArgumentParser(description=__doc__)
    for kind, count in COUNTS.items():
        asked.add_argument(f"--{kind}", type=int, default=count, metavar="N")
    asked.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="at once")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--state", type=Path, help="a folder that keeps what was done, to go on from")
    asked.add_argument("--quick", action="store_true", help="no clean run to hold the memory against")
    asked.add_argument("--one", metavar="KIND:NUMBER", help="one case alone")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        state = given.state or Path(scratch)
        state.mkdir(parents=True, exist_ok=True)
        there = _ground((state / "ground").absolute())
        if given.one:
            kind, _, number = given.one.partition(":")
            kept = Path(scratch, "one.jsonl")
            batch(kind, there, given.seed, range(int(number), int(number) + 1), kept, measures=False)
            print(kept.read_text(encoding="utf-8"))
            return
        faults = 0
        for kind in COUNTS:
            if count := getattr(given, kind):
                found = campaign(kind, count, there, state.absolute(), given)
                print("\n".join(found.faults), flush=True)
                print(told(kind, found), flush=True)
                faults += len(found.faults)
    sys.exit(min(faults, 1))


if __name__ == "__main__":
    main()
