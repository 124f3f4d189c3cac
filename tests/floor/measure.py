"""Verifies bundles on releases of ONNX Runtime, each in an environment of its own: `make floor`.

An environment has numpy, Pillow, one ONNX Runtime and deploytool, so its commands of a device alone. The page gets what
each release reads and how each bundle did; exit code 1 if a release does not read what `deploytool/runtimes.py` says,
or if a bundle neither verifies nor is refused in one line that names a version.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploytool import runtimes
from tests.conftest import ROOT

VERSIONS = ("1.16.3", "1.18.1", "1.20.1", "1.22.1", "1.24.4", "1.28.0", "1.32.0")
_OWN = ROOT / "tests" / "user_models"
_ENCODER = (f"{_OWN / 'grouped_attention.py'}:Encoder", "--input", "tokens=16:int64:50")
BUNDLES: Mapping[str, Sequence[str]] = {  # arguments of export
    "MobileNet, opset 18": ("mobilenet_v1_025",),
    "encoder, opset 18": _ENCODER,
    "encoder, `--floor ort=1.16`": (*_ENCODER, "--floor", "ort=1.16"),
    "encoder, opset 22": (*_ENCODER, "--opset", "22"),
    "encoder, opset 23": (*_ENCODER, "--opset", "23"),
}
_TABLE = "<!-- measured: make floor -->"


@dataclass(frozen=True)
class Row:
    """One release: the newest IR version and opset that it reads, and the outcome of each bundle."""

    version: str
    ir_version: int
    opset: int
    outcomes: tuple[str, ...]
    failures: tuple[str, ...]


def environment(folder: Path, version: str) -> Path:
    """The Python of an environment with one ONNX Runtime, made if it does not exist."""
    python = folder / version / "bin" / "python"
    if not (folder / version / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder / version)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        old = (runtimes.release(version) or (0, 0)) < (1, 19)  # built for the first ABI of numpy
        subprocess.run([*pip, f"onnxruntime=={version}", "numpy<2" if old else "numpy", "pillow"], check=True)
        (folder / version / "ready").touch()
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--force-reinstall"]
    subprocess.run([*pip, str(ROOT)], check=True)
    return python


def bundle(folder: Path, number: int, arguments: Sequence[str]) -> Path:
    """The bundle of an export with these arguments."""
    run = folder / f"run_{number}"
    command = [sys.executable, "-m", "deploytool", "export", *arguments, "--quick", "--pack", "--out", str(run)]
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return run / "pack" / "bundle"


def row(python: Path, version: str, bundles: Sequence[Path]) -> Row:
    """What a release reads, and how it verifies each bundle."""
    probe = subprocess.run([python, ROOT / "tests" / "floor" / "newest.py"], capture_output=True, text=True, check=True)
    found, ir_version, opset = json.loads(probe.stdout)
    expected = runtimes.newest(runtimes.ORT, version)
    failures = [] if expected == runtimes.Newest(ir_version, opset) else [f"{version} reads {ir_version}, {opset}"]
    failures += [] if found == version else [f"{found} is installed instead of {version}"]
    installed = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    outcomes = []
    for path in bundles:
        command = [str(python), "-m", "deploytool.device", "verify", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=installed, cwd=python.parent)
        held = re.search(r"^  ORT CPU +works: error (\S+?),", done.stdout, re.MULTILINE)
        refused = re.search(r"^  ORT CPU +skipped: ONNX Runtime \S+ reads .* up to \d+, .*", done.stdout, re.MULTILINE)
        outcomes.append(f"{held[1]}" if held and not done.returncode else "refused" if refused else "FAILED")
        if outcomes[-1] == "FAILED":
            failures.append(f"{version}, {path}: {done.stdout}{done.stderr}")
    return Row(version, ir_version, opset, tuple(outcomes), tuple(failures))


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    head = ["ONNX Runtime", "IR version", "opset", *BUNDLES]
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    lines += [" | ".join([row.version, str(row.ir_version), str(row.opset), *row.outcomes]) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def main() -> int:
    """Measures, writes the page if one is given, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--work", type=Path, default=ROOT / ".venv" / "floor", help="environments and bundles")
    parser.add_argument("--page", type=Path, help="the page whose table is written")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    bundles = [bundle(args.work, number, arguments) for number, arguments in enumerate(BUNDLES.values())]
    rows = [row(environment(args.work, version), version, bundles) for version in args.versions]
    if args.page:
        before, _, after = args.page.read_text(encoding="utf-8").partition(_TABLE)
        rest = re.sub(r"\A\n\n(\|.*\n)*", "", after)
        args.page.write_text(f"{before}{_TABLE}\n\n{table(rows)}\n{rest}", encoding="utf-8")
    print(table(rows))
    failures = [failure for row in rows for failure in row.failures]
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
