"""Makes one cell, or the stages that several cells share, in a process of its own; a worker of a sweep starts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deploytool import api, serde
from deploytool.errors import DeployError, OutOfMemory, ResourceExhausted, Unreachable
from deploytool.host import exception_text, files, terminal
from deploytool.pipeline import plan as pipeline_plan
from deploytool.pipeline import runner
from deploytool.pipeline.export_options import ExportOptions
from deploytool.results import receipt as receipts
from deploytool.results.receipt import Receipt
from deploytool.results.sweep import Cell, CellResult, CellState
from deploytool.run_folder import publish, staging
from deploytool.spec import Job as ExportJob
from deploytool.spec import Stage
from deploytool.sweeps import job as sweep_job
from deploytool.sweeps import serial, store, summary
from deploytool.sweeps.job import ChildTask, Job

_OUTSIDE = (ResourceExhausted, OutOfMemory, Unreachable)  # failures of the machine: another attempt may succeed


def main() -> None:
    """Reads a task from stdin, one line of JSON, and writes the result, a `CellResult`, to the file that it names."""
    task = serde.decode(ChildTask, serde.loads(sys.stdin.readline(), sweep_job.MAX_BYTES))
    os.chdir(task.cwd)
    with terminal.stdout_to_stderr():  # a model may print
        result = make(task.job, Path(task.root))
    files.publish(Path(task.result), serde.text(result).encode())


def make(job: Job, root: Path) -> CellResult:
    """Makes a cell or shared stages below `root`; what fails is in the result."""
    options = replace(serial.decode(job.options), out=root / job.folder)
    before = root / job.after if job.after else None
    try:
        with exception_text.as_deploy_errors():
            plan = pipeline_plan.plan_export(job.model, options)
            stages = plan.recipe if job.cell else [stage for stage in plan.recipe if stage in job.stages]
            if before is not None:
                seed(root / job.folder, before, stages)
            if job.cell is None:
                for _ in runner.run(ExportJob(plan.model, plan.options), stages, plan.home):
                    pass
                return _shared(job)
            return _export(job.cell, job, options)
    except DeployError as error:
        code, problem, remedy = summary.exit_of(error)
        state = CellState.LOST if isinstance(error, _OUTSIDE) else CellState.REFUSED
        return replace(_shared(job), state=state, exit_code=code, problem=problem, remedy=remedy)


def seed(home: Path, before: Path, stages: Sequence[Stage]) -> None:
    """Links the finished stage directories of another run beside a run, which then continues from them.

    Nothing is done if the run, or an interrupted one, has the same stages already.
    """
    present = [(path, receipt) for path, receipt in runner.stage_directories(before) if receipt.made_by in stages]
    with staging.open_run(home) as staged:
        missing = [
            path
            for path, receipt in present
            if receipt.key not in {kept.key for kept in _receipts(staged.sources(receipt.made_by))}
        ]
        if missing:
            staged.begin()
            for path, _ in present:
                staged.link_stage(path)


def _receipts(directories: Sequence[Path]) -> list[Receipt]:
    return [receipt for receipt in map(receipts.read, directories) if receipt is not None]


def _export(cell: Cell, job: Job, options: ExportOptions) -> CellResult:
    """Exports, and takes from the run what the table shows."""
    run = api.run_export(job.model, options)
    publish.recover(run.folder)
    code, problem, remedy = summary.exit_of(run.error)
    sums, sizes = store.digests(run.folder)
    return CellResult(
        cell,
        CellState.PASSED if run.error is None else CellState.FAILED,
        job.folder,
        summary.verdict_of(run.report, run.folder),
        code,
        problem,
        remedy,
        digests=sums,
        sizes=sizes,
        speeds=summary.speeds(run.report),
        closeness=summary.closeness(run.report),
        pending=summary.pending(run.report),
        drops=summary.drops(run.report),
        shared=tuple(artifact.made_by for artifact in run.artifacts if not artifact.fresh),
    )


def _shared(job: Job) -> CellResult:
    """The result of stages without a cell of their own."""
    return CellResult(job.cell or Cell(job.folder, job.model), CellState.PASSED, job.folder)
