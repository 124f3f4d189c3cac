"""Writes sweep.csv: one row for each cell, with columns that later versions keep."""

from __future__ import annotations

import csv
import io
import re
from datetime import datetime, timezone

from deploytool.host import terminal
from deploytool.results import sweep_figures
from deploytool.results.sweep import CellResult, Sweep
from deploytool.spec import Range

FILE = "sweep.csv"
# What makes a spreadsheet program read a text as a formula, also after spaces, and in the wide forms of East Asia.
_FORMULA = re.compile(r"\s*[=+\-@|%\uff1d\uff0b\uff0d\uff20]")

Field = str | int | float | bool | None


def text(sweep: Sweep) -> str:
    """The table as CSV (RFC 4180), with a header; numbers have a point, and what is unknown is empty.

    A text that a spreadsheet program would take for a formula begins with an apostrophe.
    """
    written = io.StringIO()
    writer = csv.writer(written)
    for index, result in enumerate(sweep.cells):
        row = _row(result)
        if index == 0:
            writer.writerow(row)
        writer.writerow([_shown(field) for field in row.values()])
    return written.getvalue()


def _row(result: CellResult) -> dict[str, Field]:
    """The fields of a cell by column."""
    cell, machine = result.cell, result.machine
    return {
        "cell": cell.name,
        "model": cell.model,
        "weights": cell.weights,
        "precision": cell.precision.value,
        "exporter": cell.exporter,
        "target": cell.target,
        "batch": batch_text(cell.batch),
        "data": cell.data,
        "quick": cell.quick,
        "state": result.state.value,
        "verdict": result.verdict.value if result.verdict else "",
        "exit_code": result.exit_code,
        "problem": result.problem,
        "remedy": result.remedy,
        "pending": "; ".join(f"{each.what}: {each.status} ({each.device})" for each in result.pending),
        **_speed(result),
        "size_bytes": sweep_figures.size(result),
        "size_file": sweep_figures.shipped(result),
        **_error(result),
        "same_class_share": sweep_figures.agreement(result),
        "accuracy_share": sweep_figures.accuracy(result),
        "timed": result.timed,
        "duration_s": round(result.seconds, 3),
        "started_utc": _time(result.started),
        "ended_utc": _time(result.ended),
        "machine": machine.name if machine else "",
        "processor": machine.processor if machine else "",
        "gpus": "; ".join(machine.gpus) if machine else "",
        "folder": result.folder,
        "sha256": result.digests.get(sweep_figures.shipped(result), ""),
        **_drop(result),
    }


def _speed(result: CellResult) -> dict[str, Field]:
    speed = sweep_figures.fastest(result)
    return {
        "speedup_ratio": speed.ratio if speed else None,
        "speedup_low": speed.low if speed else None,
        "speedup_high": speed.high if speed else None,
        "latency_ms": speed.latency_ms if speed else None,
        "fastest_file": f"{speed.stage}/{speed.file}" if speed else "",
        "no_speedup_reason": "" if speed else sweep_figures.why_no_speed(result),
    }


def _error(result: CellResult) -> dict[str, Field]:
    worst = sweep_figures.worst(result)
    return {
        "largest_error_relative": worst.error if worst else None,
        "largest_error_tolerances": worst.tolerances if worst else None,
        "largest_error_file": f"{worst.stage}/{worst.file}" if worst else "",
    }


def _drop(result: CellResult) -> dict[str, Field]:
    drop = sweep_figures.largest_drop(result)
    return {
        "metric": drop.metric if drop else "",
        "metric_drop": drop.value if drop else None,
        "metric_drop_low": drop.low if drop else None,
        "metric_drop_high": drop.high if drop else None,
        "metric_margin": drop.margin if drop else None,
        "metric_verdict": drop.verdict.value if drop else "",
        "metric_file": f"{drop.stage}/{drop.file}" if drop else "",
    }


def batch_text(batch: Range | None) -> str:
    """A batch as `--batch` takes it; empty for the default."""
    if batch is None:
        return ""
    sizes = (batch.smallest, batch.typical, batch.largest)
    return str(sizes[0]) if len(set(sizes)) == 1 else ":".join(map(str, sizes))


def _time(seconds: float | None) -> str:
    """A time in UTC by ISO 8601, to the second."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")


def _shown(field: Field) -> str:
    """A field as text; foreign text in one line, and never as a formula."""
    if field is None:
        return ""
    if isinstance(field, bool):
        return str(field).lower()
    if not isinstance(field, str):
        return repr(field)
    line = terminal.visible(field)
    return f"'{line}" if _FORMULA.match(line) else line
