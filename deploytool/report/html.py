"""Makes the page: lays facts out by the templates, every text escaped, and leaves one self-contained file."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deploytool.host import disk, files, terminal
from deploytool.report import (
    PAGE,
    changed_options,
    compare_runs,
    device_results,
    engines,
    pareto,
    pending,
    plots,
    rows,
    stamp,
    thumbnails,
    tiles,
    timings,
)
from deploytool.report import run_data as all_facts
from deploytool.report.run_data import RunData
from deploytool.report.svg import Plot
from deploytool.results.faults import ENGINE, GRAPH
from deploytool.spec import TargetPlan
from deploytool.targets import FLAVOURS


def write(home: Path, named: Path | None = None) -> Path:
    """Draws the page of a run and puts it in the run's folder; raises BadInput if the folder holds no report.

    `named` is what the folder will be called, if it is not called so yet.
    """
    files.publish(home / PAGE, text(all_facts.read(home, named)).encode())
    return home / PAGE


def write_comparison(homes: tuple[Path, ...], out: Path) -> Path:
    """Draws one page of several runs; raises BadInput if one of them holds no report."""
    runs = [all_facts.read(home) for home in homes]
    out.parent.mkdir(parents=True, exist_ok=True)
    compared = compare_runs.compare(runs, out.parent)
    drawn = [
        pareto.pareto(each.points, each.vertical, at, logarithmic=each.logarithmic) for at, each in compared.fronts
    ]
    told = zip((each for _, each in compared.fronts), drawn, strict=True)
    page = _environment().get_template("family.html").render(compared=compared, fronts=list(told), marks=pareto.marks)
    files.publish(out, page.encode())
    return out


def text(facts: RunData) -> str:
    """The page of a run."""
    report = facts.report
    strips = list(rows.strips(facts.blame.comparisons)) if facts.blame else []
    return (
        _environment()
        .get_template("run.html")
        .render(
            stamp=stamp.of(facts.place, facts.home),
            stamp_name=stamp.NAME,
            facts=facts,
            report=report,
            closing=facts.closing,
            tone=tiles.tone(facts.closing),
            tiles=tiles.tiles(facts),
            broken=list(rows.broken(report)),
            chain=list(rows.chain(facts)),
            every=list(rows.every(report)),
            plots=_plots(facts),
            strips=[(each, plots.strip(each, at)) for at, each in enumerate(strips)],
            where=tiles.where(facts),
            built=tiles.built(facts),
            speeds=list(timings.speeds(report)),
            benched=list(timings.benched(facts.bench)) if facts.bench else [],
            agreements=[
                (rows.label(comparison), comparison.agreement, comparison.accuracy)
                for comparison in report.comparisons
                if comparison.agreement
            ],
            flips=thumbnails.flips(facts),
            samples=thumbnails.samples(facts),
            pending=pending.pending(facts),
            brought=list(device_results.rows(facts.devices)),
            engines=list(engines.served(report)),
            chosen=changed_options.chosen(report),
            covers={name: flavour.coverage for name, flavour in FLAVOURS.items()},
            on_device=TargetPlan.ON_DEVICE,
            not_served=TargetPlan.NOT_SERVED,
            graph=GRAPH,
            engine=ENGINE,
        )
    )


def _plots(facts: RunData) -> dict[str, Plot | None]:
    """Those plots for which there is something to draw, and None for the others."""
    links, bars = rows.links(facts.report), timings.bars(facts.report)
    return {
        "chain": plots.chain(links) if links else None,
        "speed": plots.speed(bars) if bars else None,
        **_benched(facts),
    }


def _benched(facts: RunData) -> dict[str, Plot | None]:
    """Latencies at the smallest batch, and the sweep where there is more than one."""
    if facts.bench is None or not facts.bench.sweeps:
        return {"latencies": None, "sweep": None}
    batch, series = timings.distributions(facts.bench)
    several = len(facts.bench.sweeps) > 1
    sweep = plots.sweep(timings.rates(facts.bench)) if several else None
    return {"latencies": plots.latencies(series, f"for a batch of {batch}") if series else None, "sweep": sweep}


def _shown(value: object) -> str:
    """Anything as it may be shown; what is escaped already keeps its lines."""
    if isinstance(value, Markup):
        return Markup("\n".join(terminal.visible(line) for line in str(value).split("\n")))
    return terminal.visible(str(value))


def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("deploytool.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    found.filters |= {
        "error": rows.error,
        "size": disk.size,
        "words": lambda name: name.replace("_", " "),
        "drawn": lambda plot: Markup(plot.svg),  # our own, its words escaped where it was made
    }
    return found
