"""Kills commands and has their calls fail: nobody may see half of anything, and the next command must work.

`make reliability` runs it. Every command is the real command line in a fork of one process that has all libraries
imported. A kill is a SIGKILL at a random moment. An error is that of the n-th call which Python makes to the file
system (`injecting`), or of the n-th call to the kernel, of ours, a library or a child, which strace has fail.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from tests.reliability import commands, injecting
from tests.reliability.commands import Attacked, Bundles
from tests.reliability.forks import forked
from tests.reliability.injecting import ERRORS, Fault, Gate

KERNEL = {  # calls that strace has fail, by what Python calls the same
    "openat": "open",
    "write": "write",
    "pwrite64": "write",
    "fsync": "fsync",
    "rename": "rename",
    "mkdir": "mkdir",
    "link": "link",
    "linkat": "link",
    "unlink": "unlink",
    "unlinkat": "unlink",
    "ftruncate": "ftruncate",
}
_DEADLINE_S = 120.0
_GONE_S = 10.0  # in which what a killed command started comes to its end
_CODES = range(2, 11)
_ALREADY = "somebody else is "  # what a command says while the one that was killed has not let go


@dataclass
class Tally:
    """What came of the attacks on one command, and what was wrong."""

    came: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Yard:
    """Where a campaign takes place: HOME, the temporary files of commands, and what they say."""

    home: Path
    scratch: Path
    said: Path


def yard(above: Path) -> Yard:
    """Makes it that of this process and all its children."""
    made = Yard(above / "home", above / "tmp", above / "said")
    for folder in (made.home, made.scratch):
        folder.mkdir()
    os.environ.update(HOME=str(made.home), TMPDIR=str(made.scratch), OMP_NUM_THREADS="1", COLUMNS="200")
    os.environ.pop("DOCKER_CONFIG", None)
    tempfile.tempdir = None
    return made


def begun(one: Attacked, turn: int, at: Yard, first: Callable[[], None] = lambda: None) -> int:
    """The command in a child, which does `first` before."""

    def work() -> None:
        from deploytool import cli

        os.chdir(one.place)
        sys.argv = ["deploytool", *one.line(turn)]
        one.prepare()
        first()
        cli.main()

    at.said.write_text("", encoding="utf-8")
    return forked(work, at.said)


def ended(child: int, seconds: float = _DEADLINE_S) -> int:
    """The exit code of a child, of which a minus is that of a signal; one that hangs is killed, and that is wrong."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"it hung for {seconds:g} s")


def one_line(said: str, code: int) -> None:
    """A failure is one problem, one remedy and an exit code that says what kind it is."""
    assert "Traceback" not in said, f"a traceback, exit {code}: {said[-1500:]}"
    problems = [line for line in said.splitlines() if line.startswith("deploytool: ")]
    assert len(problems) == 1, f"{len(problems)} problems, exit {code}: {said[-800:]}"
    assert "\n  → " in said, f"no remedy, exit {code}: {said[-800:]}"
    assert code in _CODES, f"exit {code}: {said[-800:]}"


def works(one: Attacked, turn: int, at: Yard) -> float:
    """Has the command do its work unharmed; the seconds."""
    until = time.monotonic() + _GONE_S
    while True:
        since = time.monotonic()
        code = ended(begun(one, turn, at))
        said = at.said.read_text(errors="replace")
        if code and _ALREADY in said and time.monotonic() < until:
            time.sleep(0.2)
            continue
        assert code == 0, f"the next command fails with {code}: {said[-1500:]}"
        assert one.seen(turn) == one.wanted(turn), f"the next command left {one.seen(turn)}"
        took = time.monotonic() - since
        left = commands.litter(one, at.scratch)
        while left and time.monotonic() < until:  # a child that outlives its parent by a moment
            time.sleep(0.1)
            left = commands.litter(one, at.scratch)
        assert not left, f"litter: {left}"
        return took


def looked_at(one: Attacked, turn: int, before: str) -> str:
    """What a reader sees after an attack: what was there, or what was to come."""
    now = one.seen(turn)
    assert now in (before, one.wanted(turn)), f"neither the old nor the new: {now}"
    return now


def kill(one: Attacked, turn: int, at: Yard, seconds: float, draw: random.Random) -> str:
    """Kills the command at a random moment of its life."""
    before = one.seen(turn)
    child = begun(one, turn, at)
    time.sleep(draw.uniform(0, 1.15 * seconds))
    os.kill(child, signal.SIGKILL)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    now = looked_at(one, turn, before)
    return f"{'killed' if killed else 'done before'}, {'new' if now == one.wanted(turn) else 'old'}"


def fail(one: Attacked, turn: int, at: Yard, fault: Fault) -> str:
    """Has one call of Python's fail."""
    before = one.seen(turn)
    return _judged(one, turn, at, before, ended(begun(one, turn, at, lambda: injecting.install(Gate(fault)))))


def _judged(one: Attacked, turn: int, at: Yard, before: str, code: int) -> str:
    said = at.said.read_text(errors="replace")
    now = looked_at(one, turn, before)
    if code == 0:
        assert "Traceback" not in said, said[-1500:]
        assert now == one.wanted(turn), f"it says all is well, and left {now}"
        return "done all the same"
    one_line(said, code)
    return f"exit {code}"


def calls(one: Attacked, turn: int, at: Yard) -> list[str]:
    """The kinds of all calls that Python makes, in their order."""
    to = at.said.with_name("calls")

    def first() -> None:
        gate = Gate()
        injecting.counted(gate, to)
        injecting.install(gate)

    assert ended(begun(one, turn, at, first)) == 0, at.said.read_text()
    return to.read_text().split()


def drawn(kinds: list[str], draw: random.Random) -> Fault:
    """One call of a kind that is drawn first, for there are many more looks than writes."""
    kind = draw.choice(sorted(set(kinds)))
    number = draw.choice([at for at, each in enumerate(kinds) if each == kind])
    code = draw.choice(ERRORS[kind])
    return Fault(number, code, lasting=code in (errno.ENOSPC, errno.EDQUOT) and draw.random() < 0.5)


def traced(one: Attacked, turn: int, at: Yard, options: list[str]) -> int:
    """The exit code of the command under strace, which is let go once strace has hold of it."""
    reading, writing = os.pipe()

    def first() -> None:
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)

    child = begun(one, turn, at, first)
    os.close(reading)
    command = ["strace", "-f", "-qq", *options, "-p", str(child)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as strace:
        until = time.monotonic() + _GONE_S
        while "TracerPid:\t0" in Path(f"/proc/{child}/status").read_text() and time.monotonic() < until:
            time.sleep(0.005)
        os.write(writing, b"g")
        os.close(writing)
        try:
            return ended(child)
        finally:
            with suppress(subprocess.TimeoutExpired):
                strace.wait(2.0)  # it stays with what outlives the command
            strace.terminate()


def kernel_calls(one: Attacked, turn: int, at: Yard) -> Counter[str]:
    """How often each call to the kernel is made by the command and all that it starts."""
    to = at.said.with_name("trace")
    code = traced(one, turn, at, ["-e", f"trace={','.join(KERNEL)}", "-o", str(to)])
    assert code == 0, at.said.read_text()
    words = (line.split(maxsplit=1)[-1].partition("(")[0] for line in to.read_text(errors="replace").splitlines())
    return Counter(word for word in words if word in KERNEL)


def fail_in_kernel(one: Attacked, turn: int, at: Yard, found: Counter[str], draw: random.Random) -> str:
    """Has one call to the kernel fail, be it a library's or a child's; `found` is how often each is made."""
    before = one.seen(turn)
    call = draw.choice(sorted(found))
    code, when = errno.errorcode[draw.choice(ERRORS[KERNEL[call]])], draw.randint(1, found[call])
    at.said.with_name("fault").write_text(f"{call} {code} {when}")
    inject = f"inject={call}:error={code}:when={when}"
    options = ["-e", f"trace={call}", "-e", inject, "-o", os.devnull]
    return _judged(one, turn, at, before, traced(one, turn, at, options))


def campaign(one: Attacked, at: Yard, counts: tuple[int, int, int], draw: random.Random) -> Tally:
    """So many kills, errors and errors in the kernel, each followed by the same command unharmed."""
    tally, turn = Tally(), 0
    works(one, turn, at)  # the first imports what is left to import
    turn += 1
    one.reset(turn)
    seconds = works(one, turn, at)
    turn += 1
    one.reset(turn)
    kinds = calls(one, turn, at) if counts[1] else []
    turn += 1
    one.reset(turn)
    kernel = kernel_calls(one, turn, at) if counts[2] else Counter[str]()
    attacks: list[tuple[str, Callable[[int], str]]] = [
        *[("kill", lambda turn: kill(one, turn, at, seconds, draw))] * counts[0],
        *[("error", lambda turn: _failed(one, turn, at, drawn(kinds, draw)))] * counts[1],
        *[("kernel", lambda turn: fail_in_kernel(one, turn, at, kernel, draw))] * counts[2],
    ]
    for what, attack in attacks:
        turn += 1
        one.reset(turn)
        try:
            tally.came[f"{what}: {attack(turn)}"] += 1
            if one.anew:
                one.reset(turn)
            works(one, turn, at)
        except AssertionError as error:
            fault = at.said.with_name("fault")
            how = fault.read_text() if what != "kill" and fault.exists() else ""
            tally.wrong.append(f"{one.name}, turn {turn}, {what} {how}: {error}")
            print(f"  WRONG {tally.wrong[-1]}", flush=True)
    return tally


def _failed(one: Attacked, turn: int, at: Yard, fault: Fault) -> str:
    at.said.with_name("fault").write_text(str(fault))
    return fail(one, turn, at, fault)


def bundles(above: Path, at: Yard) -> Bundles:
    """The two contents: exported, packed and put into archives by the commands themselves."""
    file, runs = commands.net(above / "model"), [above / "model" / f"run{seed}" for seed in (0, 1)]
    for seed, run in enumerate(runs):
        done(commands.export_line(file, seed, run, "--pack"), file.parent, at)
    return _archived(Bundles(tuple(runs), (runs[0] / "pack/bundle", runs[1] / "pack/bundle")), at)


def _archived(made: Bundles, at: Yard) -> Bundles:
    for folder in made.folders:
        done(["push", str(folder), f"oci-archive:{folder}.tar"], folder.parent, at)
    return made


def done(line: list[str], place: Path, at: Yard) -> None:
    """A command that nobody sets upon."""
    one = Attacked(line[0], place, lambda turn: line, lambda turn: "", lambda turn: "", frozenset())
    assert ended(begun(one, 0, at)) == 0, at.said.read_text()


def imported(*, light: bool = False) -> None:
    """Everything that a command may import, so that a fork has it: attacks are to hit commands, not imports."""
    names = ["cli", "cli.ship", "cli.device", "device.commands"]
    if not light:
        import torch

        from deploytool.stages import STAGES

        torch.set_num_threads(1)
        names += ["cli.export", "cli.pack", "road", "page.leaf", *(f"stages.{verb}" for verb in STAGES)]
        names += [f"exporters.{name}" for name in ("dynamo", "torchscript")]
        names += [f"backends.{name}" for name in ("onnxruntime", "eager", "torchscript", "fp16_emulation")]
    for name in names:
        import_module(f"deploytool.{name}")


def main() -> None:
    """Runs the campaign and prints what came of it; ends with 1 if anything was wrong."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--kills", type=int, default=500)
    asked.add_argument("--errors", type=int, default=1000)
    asked.add_argument("--kernel", type=int, default=250, help="errors that strace has the kernel give")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--only", default="", help="names of commands, with commas")
    asked.add_argument("--bundle", type=Path, nargs=2, help="instead of two that are made; they need not run anywhere")
    given = asked.parse_args()
    since, wrong = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as above, ExitStack() as stack:
        at = yard(Path(above))
        imported(light=bool(given.bundle))
        made = _archived(Bundles((), tuple(given.bundle)), at) if given.bundle else bundles(Path(above), at)
        base = None if given.bundle else _registry(stack, Path(above), made, at)
        found = commands.named(commands.every(Path(above) / "work", made, base), given.only)
        shares = [1 / one.cost for one in found]
        for one, share in zip(found, shares, strict=True):
            kills, errors, kernel = (
                _share(total, share / sum(shares)) for total in (given.kills, given.errors, given.kernel)
            )
            begun_at, draw = time.monotonic(), random.Random(f"{given.seed} {one.name}")
            tally = campaign(one, at, (kills, errors, kernel), draw)
            wrong += len(tally.wrong)
            told = f"{kills} kills, {errors} errors, {kernel} of the kernel in {time.monotonic() - begun_at:.0f} s"
            print(f"{one.name}: {told}, {len(tally.wrong)} wrong", flush=True)
            for what, count in sorted(tally.came.items()):
                print(f"  {count:4} {what}", flush=True)
    print(f"{wrong} wrong, {time.monotonic() - since:.0f} s")
    sys.exit(bool(wrong))


def _share(total: int, share: float) -> int:
    return -int(-total * share // 1)


def _registry(stack: ExitStack, above: Path, made: Bundles, at: Yard) -> str | None:
    """A registry that holds both bundles; None where none is installed."""
    from tests.transfer import servers

    if not servers.REGISTRY:
        return None
    (above / "registry").mkdir()
    base = f"http://127.0.0.1:{stack.enter_context(servers.registry(above / 'registry')).port}"
    for turn in (0, 1):
        done(["push", made.folder(turn), f"oci://{base.removeprefix('http://')}/there:{turn}"], above, at)
    return base


if __name__ == "__main__":
    main()
