"""Writes the results of a run as Markdown (GitHub's dialect), for the summary of a CI job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from deploytool.host.terminal import visible
from deploytool.report import engines, measures, rows, timings
from deploytool.report.run_data import RunData
from deploytool.results import measure_lines
from deploytool.spec import TargetPlan

_MARKUP = re.compile(r"([\\`*_\[\]#!|<>~&@])")  # what GitHub's dialect could read as markup within a line
_RIGHT, _LEFT = "---:", ":---"


def text(run: RunData) -> str:
    """The document: the verdict, why, and tables of artifacts, metric, speed, engines and what is pending."""
    report, conclusion = run.report, run.conclusion
    blocks = [
        f"## {_plain(report.model)}: {_plain(conclusion.verdict)}",
        *([_items(conclusion.reasons)] if conclusion.reasons else []),
        f"Next: {_plain(conclusion.next)}",
        *_artifacts(run),
        *_metric(run),
        *_speeds(run),
        *_engines(run),
        *(["**Not verified here**", _items(conclusion.pending)] if conclusion.pending else []),
        f"Measured on {_plain(report.device)}.",
    ]
    return "\n\n".join(blocks) + "\n"


def _artifacts(run: RunData) -> list[str]:
    columns = ("artifact", ">size", ">previous", ">FP64", ">noise", ">tolerance", ">top-1", "status")
    title = f"**Largest error relative to the largest output**, {run.report.images} golden cases"
    return [title, _table(columns, rows.comparison_rows(run))]


def _metric(run: RunData) -> list[str]:
    if (found := run.report.measures) is None:
        return []
    columns = ("artifact", f">{_plain(found.name)}", "difference (95 % interval)", "verdict")
    table = ((row.name, row.value, row.difference, row.verdict) for row in measures.measure_rows(found))
    return [f"**Metric**: {_plain(measure_lines.title(found))}", _table(columns, table)]


def _speeds(run: RunData) -> list[str]:
    if not run.report.speeds:
        return []
    columns = ("artifact", ">latency", f">{run.report.baseline}", ">speed-up", "95 % interval", "verdict")
    return [f"**Speed at batch {run.report.batch}**", _table(columns, timings.speed_rows(run.report))]


def _engines(run: RunData) -> list[str]:
    """The engines, and the targets without one."""
    built = [
        f"{row.engine.file}: {row.engine.flavour} {row.engine.version} for {' '.join(row.targets)}; {row.summary}"
        for row in engines.engine_rows(run.report)
    ]
    others = [
        f"{target.target}: {target.verdict}, {target.why}"
        for target in run.report.targets
        if target.verdict is not TargetPlan.HERE
    ]
    return ["**Engines**", _items((*built, *others))] if built or others else []


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; the name of a right-aligned column begins with >."""
    head = [name.removeprefix(">") for name in columns]
    alignment = [_RIGHT if name.startswith(">") else _LEFT for name in columns]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, alignment, *(map(_plain, line) for line in lines)))


def _items(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _plain(text: str) -> str:
    """Text in which nothing is markup, in one line."""
    return _MARKUP.sub(r"\\\1", visible(" ".join(text.split())))
