"""Times the toolchain itself, whole processes in turn: `make bench`.

Each command runs in a fresh process, all of them once a round, so that a drift of the machine's speed meets all alike;
ratios are taken round by round. CPU seconds stand beside those of the clock, for they hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploytool.host import machine

ROUNDS = 5
PYTHON = sys.executable
MODEL = "shufflenet_g3"
RUN, ENGINE_RUN, QUICK_RUNS = "artifacts/plain", "artifacts/engine", "artifacts/quick"

EAGER = f"""
import torch
from deploytool.loading import catalog
from deploytool.loading import factory
model = catalog.find("{MODEL}")
module = factory.resolve(model.factory)(**model.options).eval()
inputs = torch.randn(2, 3, 224, 224)
with torch.inference_mode():
    answers = module(inputs)
"""
EXPORTED = """
import onnx, onnxruntime, warnings
warnings.simplefilter("ignore")
names = {"input_names": ["input"], "output_names": ["logits"]}
"""
CHECKED = """
onnx.checker.check_model(graph, full_check=True)
session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
(got,) = session.run(None, {"input": inputs.numpy()})
assert abs(got - answers.numpy()).max() < 1e-3
"""
LEGACY = f"""{EAGER}{EXPORTED}
free = {{"input": {{0: "batch"}}, "logits": {{0: "batch"}}}}
torch.onnx.export(module, (inputs,), "legacy.onnx", dynamo=False, dynamic_axes=free, **names)
import onnxsim
graph, held = onnxsim.simplify(onnx.load("legacy.onnx"))
assert held
{CHECKED}"""
DYNAMO = f"""{EAGER}{EXPORTED}
torch.onnx.export(module, (inputs,), "dynamo.onnx", dynamo=True, dynamic_shapes=({{0: "batch"}},), **names)
graph = onnx.load("dynamo.onnx")
{CHECKED}"""


def deploytool(*words: str) -> tuple[str, ...]:
    return (PYTHON, "-m", "deploytool", *words)


COMMANDS = {
    "import torch": (PYTHON, "-c", "import torch"),
    "one eager run": (PYTHON, "-c", EAGER),
    "legacy + onnxsim + check": (PYTHON, "-c", LEGACY),
    "dynamo + check": (PYTHON, "-c", DYNAMO),
    "deploytool --help": deploytool("--help"),
    "deploytool models": deploytool("models"),
    "deploytool targets": deploytool("targets"),
    "export --to onnx --quick": deploytool("export", MODEL, "--to", "onnx", "--quick", "--out", f"{QUICK_RUNS}/onnx"),
    "export --trt --quick": deploytool("export", MODEL, "--trt", "--quick", "--out", f"{QUICK_RUNS}/engine"),
    "export, cold": deploytool("export", MODEL, "--out", RUN),
    "export --trt, cold": deploytool("export", MODEL, "--trt", "--out", ENGINE_RUN),
    "export --trt, repeated": deploytool("export", MODEL, "--trt", "--out", ENGINE_RUN),
    "deploytool show": deploytool("show", ENGINE_RUN),
}
GOALS = (  # of a cold export, held against the quick one and against the whole one
    ("deploytool --help", "import torch", 0.3),
    ("deploytool models", "import torch", 0.3),
    ("deploytool targets", "import torch", 0.3),
    ("deploytool show", "import torch", 0.3),
    ("export --to onnx --quick", "one eager run", 1.5),
    ("export --to onnx --quick", "legacy + onnxsim + check", 0.9),
    ("export --to onnx --quick", "dynamo + check", 0.3),
    ("export --trt --quick", "one eager run", 3.0),
    ("export, cold", "one eager run", 1.5),
    ("export, cold", "legacy + onnxsim + check", 0.9),
    ("export, cold", "dynamo + check", 0.3),
    ("export --trt, cold", "one eager run", 3.0),
    ("export --trt, repeated", "export --trt, cold", 0.1),
)
MOST_MIB = 100  # of a repeated run
_UNUSUAL = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")  # set on some machines of a CI, and on no user's


@dataclass(frozen=True)
class Spent:
    """What one process took, with the processes it started."""

    seconds: float
    cpu_seconds: float
    mebibytes: float


def spent(command: Sequence[str], folder: Path) -> Spent:
    settings = {name: value for name, value in os.environ.items() if name not in _UNUSUAL}
    begun = time.perf_counter()
    with (folder / "said").open("wb") as said:
        child = subprocess.Popen(command, cwd=folder, env=settings, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
    seconds, child.returncode = time.perf_counter() - begun, os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit((folder / "said").read_text(errors="replace"))
    return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def measured(rounds: int, folder: Path) -> dict[str, list[Spent]]:
    taken: dict[str, list[Spent]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        shutil.rmtree(folder / "artifacts", ignore_errors=True)
        for name, command in COMMANDS.items():
            each = spent(command, folder)
            if turn:  # the first round warms the disk's cache
                taken[name].append(each)
    return taken


def table(taken: dict[str, list[Spent]]) -> list[str]:
    lines = []
    for name, each in taken.items():
        seconds = sorted(one.seconds for one in each)
        spread = f"({seconds[0]:.3f}–{seconds[-1]:.3f})"
        cpu, peak = statistics.median(one.cpu_seconds for one in each), max(one.mebibytes for one in each)
        lines.append(f"{name:<26} {statistics.median(seconds):7.3f} s {spread:<18} CPU {cpu:7.3f} s {peak:6.0f} MiB")
    return lines


def verdicts(taken: dict[str, list[Spent]]) -> list[str]:
    lines = []
    for fast, slow, goal in GOALS:
        pairs = list(zip(taken[fast], taken[slow], strict=True))
        ratios = [one.seconds / other.seconds for one, other in pairs]
        cpu = statistics.median(one.cpu_seconds / other.cpu_seconds for one, other in pairs)
        middle, spread = statistics.median(ratios), f"({min(ratios):.3f}–{max(ratios):.3f}), CPU {cpu:.3f}×"
        lines.append(f"{fast} / {slow}: {middle:.3f}× {spread}, goal {goal}×: {word(middle <= goal)}")
    peak = max(one.mebibytes for one in taken["export --trt, repeated"])
    lines.append(f"export --trt, repeated: {peak:.0f} MiB, goal {MOST_MIB} MiB: {word(peak <= MOST_MIB)}")
    return lines


def word(held: bool) -> str:
    return "reached" if held else "MISSED"


def without_torch(folder: Path) -> str:
    """Whether the repeated run did without torch, by Python's own account of what was imported."""
    command = [PYTHON, "-X", "importtime", *COMMANDS["export --trt, repeated"][1:]]
    told = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stderr
    names = {line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")}
    return f"export --trt, repeated: {len(names)} modules without torch: {word('torch' not in names)}"


def stages(home: Path) -> str:
    """Where the time of a cold run went, stage by stage; the first imports torch."""
    receipts = [json.loads(path.read_text(encoding="utf-8")) for path in home.glob("*/receipt.json")]
    ordered = sorted(receipts, key=lambda each: -float(each["seconds"]))
    return f"{home.name}: " + ", ".join(f"{each['made_by']} {each['seconds']:.1f} s" for each in ordered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    head = f"{machine.cpu()}, Python {platform.python_version()}, torch {machine.version('torch')}, {rounds} rounds"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        taken = measured(rounds, folder)
        lines = [head, *table(taken), *verdicts(taken), without_torch(folder)]
        homes = (folder / ENGINE_RUN, *(folder / QUICK_RUNS / name for name in ("onnx", "engine")))
        lines += [stages(home) for home in homes]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
