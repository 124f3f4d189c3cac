"""Exports foreign graphs as a user does, checks them independently, and writes the table: `make foreign-models`.

Runs in an environment with transformers and timm. Each row is three child processes: its maker, `deploytool export`,
and the independent check. Results are JSON lines in the state folder; an interrupted sweep resumes there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.foreign.graphs.rows import ROWS, Origin, Row

ROOT = Path(__file__).resolve().parents[3]
HEADING = "## What was found"
LIMIT_S = 600
KEEP_FP32 = "--keep-fp32 auto"  # the remedy of a message that a user would try
WRONG = 4.0  # multiples of a tolerance, above which a pass is wrong, as in `cells`


def _environment(row: Row) -> dict[str, str]:
    """The variables of a child process: one thread, no network, the stand-in of torchvision for timm only."""
    paths = [str(ROOT), *([str(ROOT / "tests/foreign/stubs")] if row.origin is Origin.TIMM else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def _python(row: Row, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=_environment(row), cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S)


def measure(row: Row, state: Path) -> dict[str, Any]:
    """The result of a row."""
    made, run = state / "made" / _slug(row), state / "runs" / _slug(row)
    result: dict[str, Any] = {"name": row.name, "origin": row.origin.value}
    if not (made / "ready").is_file():
        maker = _python(row, "-m", "tests.foreign.graphs.makers", row.name, str(made))
        if maker.returncode:
            return {**result, "verdict": "not made", "message": maker.stderr[-400:], "seconds": 0.0}
        (made / "ready").touch()
    shutil.rmtree(run, ignore_errors=True)
    arguments = [argument.replace("{made}", str(made)) for argument in (row.model, *row.arguments)]
    start = time.perf_counter()
    batch = (f"--batch={row.batch}",) if row.batch else ()
    command = ("-m", "deploytool", "export", *arguments, "--quick", *batch, "--out", str(run), "--json")
    try:
        export = _python(row, *command)
        searched = bool(export.returncode) and f"repeat the command with {KEEP_FP32}" in export.stderr
        if searched:
            export = _python(row, *command, *KEEP_FP32.split())
    except subprocess.TimeoutExpired:
        return {**result, "verdict": "too late", "message": f"not done in {LIMIT_S} s", "seconds": float(LIMIT_S)}
    result["seconds"] = round(time.perf_counter() - start, 1)
    text = export.stderr
    if "Traceback (most recent call last)" in text:
        return {**result, "verdict": "traceback", "message": text[-1500:]}
    if export.returncode:
        message = _last_lines(text)
        verdict = "refused, as it should be" if row.expected and row.expected in message else "refused"
        verdict = "unexpected error" if export.returncode == 1 else verdict
        return {**result, "verdict": verdict, "exit": export.returncode, "message": message}
    result |= _of_report(run, searched)
    check = _python(row, "-m", "tests.foreign.graphs.independent", row.name, str(made), str(run))
    if check.returncode:
        return {**result, "verdict": "not checked", "message": check.stderr[-600:]}
    result |= _judged(json.loads(check.stdout), result)
    shutil.rmtree(run)
    return result


def _judged(independent: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """The independent errors in multiples of the noise, and the verdict of both checks together."""
    multiples, wrong = {}, []
    for precision in ("fp32", "fp16"):
        error, noise = max(independent[precision].values()), result["noise"][precision]
        multiples[precision] = round(error / noise, 2) if noise else 0.0
        if not error <= max(WRONG * result["tolerances"][precision], independent.get("grain", 0.0)):
            wrong.append(f"{precision} error {error:.1e}")
    message = "" if not wrong else f"passed, but the independent check finds {', '.join(wrong)}: {independent}"[:600]
    return {
        **{"verdict": "false pass" if wrong else "pass", "message": message},
        **{"nodes": independent["nodes"], "multiples": multiples},
    }


def _of_report(run: Path, searched: bool) -> dict[str, Any]:
    """What a run's report says: exporter, rewrites, noise, tolerances, planted faults, nodes found to need FP32."""
    report = json.loads((run / "validate" / "report.json").read_text())
    noise, tolerances = {"fp32": 0.0, "fp16": 0.0}, {"fp32": 0.0, "fp16": 0.0}
    for comparison in report["comparisons"]:
        precision = "fp16" if comparison["stage"] in ("fp16", "build") else "fp32"
        for check in comparison["checks"]:
            noise[precision] = max(noise[precision], check["tolerance"]["noise"] or 0.0)
            tolerances[precision] = max(tolerances[precision], check["tolerance"]["max_error"])
    receipts = {
        stage: json.loads(path.read_text()) for stage in ("export", "rewrite", "fp16") if (path := _receipt(run, stage))
    }
    rewrites = receipts.get("rewrite", {}).get("notes", {}).get("rewrites", {})
    return {
        "noise": noise,
        "tolerances": tolerances,
        "exporter": receipts.get("export", {}).get("notes", {}).get("exporter", ""),
        "rewrites": [name for name, found in rewrites.items() if found["applied"]],
        "kept": receipts["fp16"]["notes"]["keep_fp32"] if searched else [],
        "faults": report.get("faults"),
        "remarks": report.get("remarks"),
    }


def _receipt(run: Path, stage: str) -> Path | None:
    return next((path for path in (run / stage).glob("*receipt*.json")), None)


def _last_lines(text: str) -> str:
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
    return "\n".join(lines[-6:])[:1500]


def _slug(row: Row) -> str:
    return re.sub(r"[^a-z0-9]+", "_", row.name.lower())


def read(state: Path) -> dict[str, dict[str, Any]]:
    """The results so far; the last one of a row counts."""
    file = state / "results.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return {record["name"]: record for record in map(json.loads, (line for line in lines if line.endswith("}")))}


def table(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The results as a Markdown table, in the order of the rows."""
    yield "| model | from | exporter | nodes | rewrites | FP32 error | FP16 error | seconds | verdict |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in ROWS:
        if result := results.get(row.name):
            multiples = result.get("multiples") or {}
            errors = " | ".join(f"{multiples[name]:.1f}×" if name in multiples else "–" for name in ("fp32", "fp16"))
            fired = ", ".join(result.get("rewrites") or ()) or "–"
            cells = (row.name, row.origin.value, result.get("exporter") or "–", result.get("nodes") or "–", fired)
            kept = f", in FP32: {', '.join(result['kept'])}" if result.get("kept") else ""
            yield f"| {' | '.join(map(str, cells))} | {errors} | {result['seconds']:.0f} | {result['verdict']}{kept} |"


def write_page(results: Mapping[str, Mapping[str, Any]], page: Path) -> None:
    """Replaces the table on a page, and lists the messages of those that did not pass."""
    names = ("torch", "transformers", "timm", "onnx", "onnxruntime")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    passed = sum(result["verdict"] == "pass" for result in results.values())
    others = [result for result in results.values() if result["verdict"] != "pass"]
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {versions}; {len(results)} of {len(ROWS)} graphs were run, {passed} pass:",
        "",
        *table(results),
        "",
    ]
    lines += [f"- {result['name']}: {_summary(str(result['message']))}" for result in others]
    page.write_text("\n".join([page.read_text().partition(HEADING)[0] + HEADING, "", *lines]).rstrip() + "\n")


def _summary(message: str) -> str:
    """The last message of an export in one line, without the folders of this machine."""
    line = " ".join(message.rpartition("deploytool: ")[2].split())
    return re.sub(r"/\S*/(?:made|runs)/", "", line)[:400]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the rows without a result, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, default=ROOT / "artifacts" / "foreign-models")
    parser.add_argument("--rows", nargs="+", help="parts of names of rows; default: all")
    parser.add_argument("--again", action="store_true", help="repeat rows that have a result")
    parser.add_argument("--failed", action="store_true", help="repeat rows that did not pass")
    parser.add_argument("--page", type=Path, help="Markdown page whose table is replaced")
    args = parser.parse_args(arguments)
    args.state.mkdir(parents=True, exist_ok=True)
    done = {} if args.again else read(args.state)
    done = {name: result for name, result in done.items() if not args.failed or result["verdict"] == "pass"}
    wanted = [row for row in ROWS if not args.rows or any(part.lower() in row.name.lower() for part in args.rows)]
    for row in wanted:
        if row.name not in done:
            result = measure(row, args.state)
            with (args.state / "results.jsonl").open("a") as lines:
                lines.write(json.dumps(result) + "\n")
            print(
                f"{result['name']}: {result['verdict']} ({result['seconds']} s) {result['message'][:300]}", flush=True
            )
    if args.page:
        write_page(read(args.state), args.page)


if __name__ == "__main__":
    main()
