"""Renders the HTML pages from templates: every text is escaped, and the result is one self-contained file."""

from __future__ import annotations

from pathlib import Path

from deploytool.bundle import int8_choice
from deploytool.host import files
from deploytool.report import (
    changed_options,
    compare_runs,
    device_results,
    engines,
    measures,
    pareto,
    pending,
    plots,
    rows,
    run_data,
    stamp,
    templating,
    thumbnails,
    tiles,
    timings,
)
from deploytool.report.compare_runs import ParetoPlot
from deploytool.report.run_data import RunData
from deploytool.report.svg import Plot
from deploytool.results import measure_lines, verdict
from deploytool.results.artifact import PAGE
from deploytool.results.faults import ENGINE, GRAPH
from deploytool.spec import TargetPlan
from deploytool.targets import FLAVOURS


def write(home: Path, final: Path | None = None) -> Path:
    """Writes the page of a run into its folder; raises BadInput if the folder has no report.

    `final` is the path that the folder will be moved to, if it is not there yet.
    """
    files.publish(home / PAGE, render(run_data.read(home, final)).encode())
    return home / PAGE


def write_comparison(homes: tuple[Path, ...], out: Path) -> Path:
    """Writes one page that compares several runs; raises BadInput if one of them has no report."""
    runs = [run_data.read(home) for home in homes]
    out.parent.mkdir(parents=True, exist_ok=True)
    compared = compare_runs.compare(runs, out.parent)
    drawn = [(plot, _pareto(plot, number)) for number, plot in compared.plots]
    template = templating.environment().get_template("runs.html")
    page = template.render(compared=compared, plots=drawn, model_signs=pareto.model_signs)
    files.publish(out, page.encode())
    return out


def _pareto(plot: ParetoPlot, number: int) -> Plot:
    return pareto.pareto(
        plot.points,
        plot.vertical,
        number,
        logarithmic=plot.logarithmic,
        title="Latency and accuracy",
        caption=pareto.caption("more accurate"),
    )


def render(run: RunData) -> str:
    """The page of a run as HTML text."""
    report = run.report
    strips = list(rows.layer_strips(run.blame.comparisons)) if run.blame else []
    return (
        templating.environment()
        .get_template("run.html")
        .render(
            stamp=stamp.compute(run.location, run.home),
            stamp_name=stamp.META_NAME,
            run=run,
            report=report,
            conclusion=run.conclusion,
            tone=tiles.tone(run.conclusion),
            tiles=tiles.tiles(run),
            failed=list(rows.failed_figures(report)),
            comparisons=list(rows.comparison_rows(run)),
            checks=list(rows.check_rows(report)),
            plots=_plots(run),
            strips=[(strip, plots.strip(strip, number)) for number, strip in enumerate(strips)],
            failure_location=tiles.failure_location(run),
            artifacts=tiles.artifact_sentence(run),
            speeds=list(timings.speed_rows(report)),
            gains=(*verdict.int8_gain_lines(report), *(f"In a bundle {line}" for line in int8_choice.lines(report))),
            latencies=list(timings.bench_rows(run.bench)) if run.bench else [],
            agreements=[
                (rows.label(comparison), comparison.agreement, comparison.accuracy)
                for comparison in report.comparisons
                if comparison.agreement
            ],
            flips=thumbnails.flip_thumbnails(run),
            samples=thumbnails.sample_thumbnails(run),
            pending=pending.pending(run),
            device_rows=list(device_results.rows(run.devices)),
            engines=list(engines.engine_rows(report)),
            measure_title=measure_lines.title(report.measures) if report.measures else "",
            measures=list(measures.measure_rows(report.measures)) if report.measures else [],
            hardest=list(measures.hardest(run)),
            options=changed_options.changed_options(report),
            default_capabilities={name: flavour.coverage for name, flavour in FLAVOURS.items()},
            on_device=TargetPlan.ON_DEVICE,
            not_served=TargetPlan.NOT_SERVED,
            graph=GRAPH,
            engine=ENGINE,
        )
    )


def _plots(run: RunData) -> dict[str, Plot | None]:
    """The plots by name; None if there is no data for one."""
    comparison_bars, speed_bars = rows.comparison_bars(run.report), timings.bars(run.report)
    return {
        "errors": plots.comparison_errors(comparison_bars) if comparison_bars else None,
        "speed": plots.speed(speed_bars, run.report.baseline) if speed_bars else None,
        **_bench_plots(run),
    }


def _bench_plots(run: RunData) -> dict[str, Plot | None]:
    """Latencies at the smallest batch size, and throughput by batch size if there are several."""
    if run.bench is None or not run.bench.sweeps:
        return {"latencies": None, "sweep": None}
    batch, series = timings.distributions(run.bench)
    several = len(run.bench.sweeps) > 1
    return {
        "latencies": plots.latencies(series, f"for a batch of {batch}") if series else None,
        "sweep": plots.sweep(timings.rates(run.bench)) if several else None,
    }
