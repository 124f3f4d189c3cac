"""Times the command line itself as whole processes: `make bench`.

Each command runs in a new process once a round, so that changes of the machine's speed affect all commands alike, and
ratios are computed for each round. CPU seconds are reported too, because they are valid on a busy machine.
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
    outputs = module(inputs)
"""
EXPORT_NAMES = """
import onnx, onnxruntime, warnings
warnings.simplefilter("ignore")
names = {"input_names": ["input"], "output_names": ["logits"]}
"""
CHECK = """
onnx.checker.check_model(graph, full_check=True)
session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
(result,) = session.run(None, {"input": inputs.numpy()})
assert abs(result - outputs.numpy()).max() < 1e-3
"""
LEGACY = f"""{EAGER}{EXPORT_NAMES}
axes = {{"input": {{0: "batch"}}, "logits": {{0: "batch"}}}}
torch.onnx.export(module, (inputs,), "legacy.onnx", dynamo=False, dynamic_axes=axes, **names)
import onnxsim
graph, is_valid = onnxsim.simplify(onnx.load("legacy.onnx"))
assert is_valid
{CHECK}"""
DYNAMO = f"""{EAGER}{EXPORT_NAMES}
torch.onnx.export(module, (inputs,), "dynamo.onnx", dynamo=True, dynamic_shapes=({{0: "batch"}},), **names)
graph = onnx.load("dynamo.onnx")
{CHECK}"""


def deploytool(*arguments: str) -> tuple[str, ...]:
    return (PYTHON, "-m", "deploytool", *arguments)


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
GOALS = (  # the greatest ratio of the first command's time to the second's
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
MAX_MIB = 100  # of a repeated run
_IGNORED_SETTINGS = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")  # set on some CI machines, but usually not by users


@dataclass(frozen=True)
class Usage:
    """The time and peak memory of one process and its children."""

    seconds: float
    cpu_seconds: float
    mebibytes: float


def run_command(command: Sequence[str], folder: Path) -> Usage:
    settings = {name: value for name, value in os.environ.items() if name not in _IGNORED_SETTINGS}
    start = time.perf_counter()
    with (folder / "output").open("wb") as output:
        child = subprocess.Popen(command, cwd=folder, env=settings, stdout=output, stderr=output)
        _, status, usage = os.wait4(child.pid, 0)
    seconds, child.returncode = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit((folder / "output").read_text(errors="replace"))
    return Usage(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def measure(rounds: int, folder: Path) -> dict[str, list[Usage]]:
    usages: dict[str, list[Usage]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        shutil.rmtree(folder / "artifacts", ignore_errors=True)
        for name, command in COMMANDS.items():
            usage = run_command(command, folder)
            if number:  # round 0 warms the disk cache
                usages[name].append(usage)
    return usages


def table(usages: dict[str, list[Usage]]) -> list[str]:
    lines = []
    for name, runs in usages.items():
        seconds = sorted(run.seconds for run in runs)
        spread = f"({seconds[0]:.3f}–{seconds[-1]:.3f})"
        cpu, peak = statistics.median(run.cpu_seconds for run in runs), max(run.mebibytes for run in runs)
        lines.append(f"{name:<26} {statistics.median(seconds):7.3f} s {spread:<18} CPU {cpu:7.3f} s {peak:6.0f} MiB")
    return lines


def verdicts(usages: dict[str, list[Usage]]) -> list[str]:
    lines = []
    for fast, slow, goal in GOALS:
        pairs = list(zip(usages[fast], usages[slow], strict=True))
        ratios = [first.seconds / second.seconds for first, second in pairs]
        cpu = statistics.median(first.cpu_seconds / second.cpu_seconds for first, second in pairs)
        middle, spread = statistics.median(ratios), f"({min(ratios):.3f}–{max(ratios):.3f}), CPU {cpu:.3f}×"
        lines.append(f"{fast} / {slow}: {middle:.3f}× {spread}, goal {goal}×: {verdict(middle <= goal)}")
    peak = max(run.mebibytes for run in usages["export --trt, repeated"])
    lines.append(f"export --trt, repeated: {peak:.0f} MiB, goal {MAX_MIB} MiB: {verdict(peak <= MAX_MIB)}")
    return lines


def verdict(is_reached: bool) -> str:
    return "reached" if is_reached else "MISSED"


def without_torch(folder: Path) -> str:
    """A line that tells whether a repeated run imports torch, according to `-X importtime`."""
    command = [PYTHON, "-X", "importtime", *COMMANDS["export --trt, repeated"][1:]]
    log = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stderr
    names = {line.rpartition("|")[2].strip() for line in log.splitlines() if line.startswith("import time:")}
    return f"export --trt, repeated: {len(names)} modules without torch: {verdict('torch' not in names)}"


def stages(run_folder: Path) -> str:
    """The seconds of each stage of a cold run; the first stage imports torch."""
    receipts = [json.loads(path.read_text(encoding="utf-8")) for path in run_folder.glob("*/receipt.json")]
    ordered = sorted(receipts, key=lambda receipt: -float(receipt["seconds"]))
    return f"{run_folder.name}: " + ", ".join(f"{receipt['made_by']} {receipt['seconds']:.1f} s" for receipt in ordered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    header = f"{machine.cpu()}, Python {platform.python_version()}, torch {machine.version('torch')}, {rounds} rounds"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        usages = measure(rounds, folder)
        lines = [header, *table(usages), *verdicts(usages), without_torch(folder)]
        run_folders = (folder / ENGINE_RUN, *(folder / QUICK_RUNS / name for name in ("onnx", "engine")))
        lines += [stages(run_folder) for run_folder in run_folders]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
