"""Kills commands and injects errors: no artifact may be incomplete, and the next command must succeed.

`make reliability` runs it. Every command is the real command line, forked from a process that has imported all
libraries. A kill is a SIGKILL at a random moment. An error is injected into the n-th file system call of Python
(`injecting`), or by strace into the n-th system call of the command, its libraries and its children.
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
from tests.reliability.commands import Bundles, CommandCase
from tests.reliability.forks import fork
from tests.reliability.injecting import ERRORS, CallCounter, Fault

SYSCALLS = {  # system call: the name of the corresponding call in Python
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
_CLEANUP_S = 10.0  # in which the children of a killed command must end
_EXIT_CODES = range(2, 11)
_LOCKED = ("another process ",)  # in messages while a killed command still holds a lock


@dataclass
class Tally:
    """The outcomes of all attacks on one command, and what went wrong."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Workspace:
    """The folders of a campaign: HOME and the temporary files of commands, and the file of their output."""

    home: Path
    scratch: Path
    output: Path


def make_workspace(above: Path) -> Workspace:
    """Creates the folders and sets them in the environment of this process and its children."""
    workspace = Workspace(above / "home", above / "tmp", above / "output")
    for folder in (workspace.home, workspace.scratch):
        folder.mkdir()
    os.environ.update(HOME=str(workspace.home), TMPDIR=str(workspace.scratch), OMP_NUM_THREADS="1", COLUMNS="200")
    os.environ.pop("DOCKER_CONFIG", None)
    tempfile.tempdir = None
    return workspace


def start(command: CommandCase, turn: int, workspace: Workspace, first: Callable[[], None] = lambda: None) -> int:
    """Runs the command in a child process, after `first`; returns the process id."""

    def work() -> None:
        from deploytool.cli import app

        os.chdir(command.folder)
        sys.argv = ["deploytool", *command.line(turn)]
        command.prepare()
        first()
        app.main()

    workspace.output.write_text("", encoding="utf-8")
    return fork(work, workspace.output)


def wait(child: int, seconds: float = _DEADLINE_S) -> int:
    """The exit code of a child, negative for a signal; kills a child that hangs and raises AssertionError."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"it hung for {seconds:g} s")


def check_error_message(output: str, code: int) -> None:
    """Asserts that a failure prints one problem and one remedy, and has a defined exit code."""
    assert "Traceback" not in output, f"a traceback, exit {code}: {output[-1500:]}"
    problems = [line for line in output.splitlines() if line.startswith("deploytool: ")]
    assert len(problems) == 1, f"{len(problems)} problems, exit {code}: {output[-800:]}"
    assert "\n  → " in output, f"no remedy, exit {code}: {output[-800:]}"
    assert code in _EXIT_CODES, f"exit {code}: {output[-800:]}"


def run_undisturbed(command: CommandCase, turn: int, workspace: Workspace) -> float:
    """Runs the command without faults and checks its result; returns the seconds."""
    until = time.monotonic() + _CLEANUP_S
    while True:
        start_time = time.monotonic()
        code = wait(start(command, turn, workspace))
        output = workspace.output.read_text(errors="replace")
        if code and any(text in output for text in _LOCKED) and time.monotonic() < until:
            time.sleep(0.2)
            continue
        assert code == 0, f"the next command fails with {code}: {output[-1500:]}"
        assert command.seen(turn) == command.wanted(turn), f"the next command left {command.seen(turn)}"
        seconds = time.monotonic() - start_time
        leftovers = commands.litter(command, workspace.scratch)
        while leftovers and time.monotonic() < until:  # a child may outlive its parent briefly
            time.sleep(0.1)
            leftovers = commands.litter(command, workspace.scratch)
        assert not leftovers, f"leftover files: {leftovers}"
        return seconds


def check_state(command: CommandCase, turn: int, before: str) -> str:
    """The state after an attack, which must be the old or the new one."""
    now = command.seen(turn)
    assert now in (before, command.wanted(turn)), f"neither the old nor the new state: {now}"
    return now


def kill(command: CommandCase, turn: int, workspace: Workspace, seconds: float, draw: random.Random) -> str:
    """Kills the command at a random moment; returns the outcome."""
    before = command.seen(turn)
    child = start(command, turn, workspace)
    time.sleep(draw.uniform(0, 1.15 * seconds))
    os.kill(child, signal.SIGKILL)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    now = check_state(command, turn, before)
    return f"{'killed' if killed else 'ended before'}, {'new' if now == command.wanted(turn) else 'old'}"


def fail(command: CommandCase, turn: int, workspace: Workspace, fault: Fault) -> str:
    """Injects an error into one file system call of Python; returns the outcome."""
    before = command.seen(turn)
    return _check_outcome(
        command,
        turn,
        workspace,
        before,
        wait(start(command, turn, workspace, lambda: injecting.install(CallCounter(fault)))),
    )


def _check_outcome(command: CommandCase, turn: int, workspace: Workspace, before: str, code: int) -> str:
    output = workspace.output.read_text(errors="replace")
    now = check_state(command, turn, before)
    if code == 0:
        assert "Traceback" not in output, output[-1500:]
        assert now == command.wanted(turn), f"exit code 0, but the state is {now}"
        return "succeeded in spite of it"
    check_error_message(output, code)
    return f"exit {code}"


def record_calls(command: CommandCase, turn: int, workspace: Workspace) -> list[str]:
    """The kinds of all file system calls that Python makes, in order."""
    log = workspace.output.with_name("calls")

    def first() -> None:
        counter = CallCounter()
        injecting.write_calls_at_exit(counter, log)
        injecting.install(counter)

    assert wait(start(command, turn, workspace, first)) == 0, workspace.output.read_text()
    return log.read_text().split()


def draw_fault(kinds: list[str], draw: random.Random) -> Fault:
    """Draws a kind of call first and then a call of that kind, because reads are far more frequent than writes."""
    kind = draw.choice(sorted(set(kinds)))
    number = draw.choice([index for index, other in enumerate(kinds) if other == kind])
    code = draw.choice(ERRORS[kind])
    return Fault(number, code, lasting=code in (errno.ENOSPC, errno.EDQUOT) and draw.random() < 0.5)


def run_traced(command: CommandCase, turn: int, workspace: Workspace, options: list[str]) -> int:
    """The exit code of the command under strace; the command starts once strace is attached."""
    reading, writing = os.pipe()

    def first() -> None:
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)

    child = start(command, turn, workspace, first)
    os.close(reading)
    strace_command = ["strace", "-f", "-qq", *options, "-p", str(child)]
    with subprocess.Popen(strace_command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as strace:
        until = time.monotonic() + _CLEANUP_S
        while "TracerPid:\t0" in Path(f"/proc/{child}/status").read_text() and time.monotonic() < until:
            time.sleep(0.005)
        os.write(writing, b"g")
        os.close(writing)
        try:
            return wait(child)
        finally:
            with suppress(subprocess.TimeoutExpired):
                strace.wait(2.0)  # it traces processes that outlive the command
            strace.terminate()


def count_syscalls(command: CommandCase, turn: int, workspace: Workspace) -> Counter[str]:
    """The number of each system call of the command and its children."""
    log = workspace.output.with_name("trace")
    code = run_traced(command, turn, workspace, ["-e", f"trace={','.join(SYSCALLS)}", "-o", str(log)])
    assert code == 0, workspace.output.read_text()
    names = (line.split(maxsplit=1)[-1].partition("(")[0] for line in log.read_text(errors="replace").splitlines())
    return Counter(name for name in names if name in SYSCALLS)


def fail_syscall(
    command: CommandCase, turn: int, workspace: Workspace, counts: Counter[str], draw: random.Random
) -> str:
    """Injects an error into one system call; `counts` is the number of calls of each kind."""
    before = command.seen(turn)
    call = draw.choice(sorted(counts))
    code, when = errno.errorcode[draw.choice(ERRORS[SYSCALLS[call]])], draw.randint(1, counts[call])
    workspace.output.with_name("fault").write_text(f"{call} {code} {when}")
    inject = f"inject={call}:error={code}:when={when}"
    options = ["-e", f"trace={call}", "-e", inject, "-o", os.devnull]
    return _check_outcome(command, turn, workspace, before, run_traced(command, turn, workspace, options))


def campaign(command: CommandCase, workspace: Workspace, counts: tuple[int, int, int], draw: random.Random) -> Tally:
    """Runs `counts` kills, call errors and system call errors, each followed by the same command without faults."""
    tally, turn = Tally(), 0
    run_undisturbed(command, turn, workspace)  # the first run completes imports
    turn += 1
    command.reset(turn)
    seconds = run_undisturbed(command, turn, workspace)
    turn += 1
    command.reset(turn)
    kinds = record_calls(command, turn, workspace) if counts[1] else []
    turn += 1
    command.reset(turn)
    kernel = count_syscalls(command, turn, workspace) if counts[2] else Counter[str]()
    attacks: list[tuple[str, Callable[[int], str]]] = [
        *[("kill", lambda turn: kill(command, turn, workspace, seconds, draw))] * counts[0],
        *[("error", lambda turn: _fail_recorded(command, turn, workspace, draw_fault(kinds, draw)))] * counts[1],
        *[("kernel", lambda turn: fail_syscall(command, turn, workspace, kernel, draw))] * counts[2],
    ]
    for kind, attack in attacks:
        turn += 1
        command.reset(turn)
        try:
            tally.outcomes[f"{kind}: {attack(turn)}"] += 1
            if command.needs_reset:
                command.reset(turn)
            run_undisturbed(command, turn, workspace)
        except AssertionError as error:
            fault = workspace.output.with_name("fault")
            detail = fault.read_text() if kind != "kill" and fault.exists() else ""
            tally.wrong.append(f"{command.name}, turn {turn}, {kind} {detail}: {error}")
            print(f"  WRONG {tally.wrong[-1]}", flush=True)
    return tally


def _fail_recorded(command: CommandCase, turn: int, workspace: Workspace, fault: Fault) -> str:
    workspace.output.with_name("fault").write_text(str(fault))
    return fail(command, turn, workspace, fault)


def make_bundles(above: Path, workspace: Workspace) -> Bundles:
    """Exports, packs and archives two bundles with different weights, by the commands themselves."""
    file, runs = commands.write_net(above / "model"), [above / "model" / f"run{seed}" for seed in (0, 1)]
    for seed, run in enumerate(runs):
        run_command(commands.export_arguments(file, seed, run, "--pack"), file.parent, workspace)
    return _make_archives(Bundles(tuple(runs), (runs[0] / "pack/bundle", runs[1] / "pack/bundle")), workspace)


def _make_archives(bundles: Bundles, workspace: Workspace) -> Bundles:
    for folder in bundles.folders:
        run_command(["push", str(folder), f"oci-archive:{folder}.tar"], folder.parent, workspace)
    return bundles


def run_command(line: list[str], folder: Path, workspace: Workspace) -> None:
    """Runs a command without faults."""
    command = CommandCase(line[0], folder, lambda turn: line, lambda turn: "", lambda turn: "", frozenset())
    assert wait(start(command, 0, workspace)) == 0, workspace.output.read_text()


def import_modules(*, light: bool = False) -> None:
    """Imports everything that a command may import, so that faults hit commands and not imports."""
    names = ["cli.app", "cli.ship", "cli.device", "device.commands"]
    if not light:
        import torch

        from deploytool.stages.registry import STAGES

        torch.set_num_threads(1)
        names += ["cli.export", "cli.pack", "api", "report.html", *(f"stages.{verb}" for verb in STAGES)]
        names += [f"exporters.{name}" for name in ("dynamo", "torchscript")]
        names += [f"backends.{name}" for name in ("onnxruntime", "eager", "torchscript", "fp16_emulation")]
    for name in names:
        import_module(f"deploytool.{name}")


def main() -> None:
    """Runs the campaign and prints its outcomes; exits with 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--errors", type=int, default=1000)
    parser.add_argument("--kernel", type=int, default=250, help="errors that strace injects into system calls")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="comma-separated names of commands")
    parser.add_argument(
        "--bundle", type=Path, nargs=2, help="two bundles to use instead of exported ones; they need not be runnable"
    )
    args = parser.parse_args()
    start_time, wrong = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as above, ExitStack() as stack:
        workspace = make_workspace(Path(above))
        import_modules(light=bool(args.bundle))
        bundles = (
            _make_archives(Bundles((), tuple(args.bundle)), workspace)
            if args.bundle
            else make_bundles(Path(above), workspace)
        )
        base = None if args.bundle else _registry(stack, Path(above), bundles, workspace)
        selected = commands.select(commands.all_commands(Path(above) / "work", bundles, base), args.only)
        shares = [1 / command.cost for command in selected]
        for command, share in zip(selected, shares, strict=True):
            kills, errors, kernel = (
                _share(total, share / sum(shares)) for total in (args.kills, args.errors, args.kernel)
            )
            command_start, draw = time.monotonic(), random.Random(f"{args.seed} {command.name}")
            tally = campaign(command, workspace, (kills, errors, kernel), draw)
            wrong += len(tally.wrong)
            seconds = time.monotonic() - command_start
            summary = f"{kills} kills, {errors} call errors, {kernel} system call errors in {seconds:.0f} s"
            print(f"{command.name}: {summary}, {len(tally.wrong)} wrong", flush=True)
            for outcome, count in sorted(tally.outcomes.items()):
                print(f"  {count:4} {outcome}", flush=True)
    print(f"{wrong} wrong, {time.monotonic() - start_time:.0f} s")
    sys.exit(bool(wrong))


def _share(total: int, share: float) -> int:
    return -int(-total * share // 1)


def _registry(stack: ExitStack, above: Path, bundles: Bundles, workspace: Workspace) -> str | None:
    """The address of a registry with both bundles; None if no registry program is installed."""
    from tests.transfer import servers

    if not servers.REGISTRY:
        return None
    (above / "registry").mkdir()
    base = f"http://127.0.0.1:{stack.enter_context(servers.registry(above / 'registry')).port}"
    for turn in (0, 1):
        run_command(
            ["push", bundles.folder(turn), f"oci://{base.removeprefix('http://')}/there:{turn}"], above, workspace
        )
    return base


if __name__ == "__main__":
    main()
