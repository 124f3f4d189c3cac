"""`deploytool export`: runs the pipeline for one model and shows the verdict. A client of `deploytool.api`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploytool.cli import completion, interrupt, progress, summary
from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.cli.export_parameters import export_options, with_export_options
from deploytool.results.artifact import Artifact
from deploytool.spec import Stage

if TYPE_CHECKING:
    from deploytool.api import Start
    from deploytool.pipeline.plan import Plan

_MODEL = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name that `deploytool models` lists, your own as FILE.py:FACTORY or PACKAGE.MODULE:FACTORY, a graph "
        "FILE.onnx, or a model of a library: hf:ORG/NAME, hf:./FOLDER or timm:NAME.",
        autocompletion=completion.model,
    ),
]


@with_export_options
def export(model: _MODEL, **options: Any) -> Outcome:
    """Exports MODEL to TorchScript, ONNX, FP16 ONNX and with --trt to engines, and checks each against the eager model.

    Examples: deploytool export shufflenet_g3 --trt · deploytool export mixnet_s --target rtx40,orin --batch 1:4:16
    """
    from deploytool import api  # imports numpy

    run = api.run_export(model, export_options(options), _follow)
    summary.show(cli_console.stderr_console(), run.report, run.folder)
    artifacts = [_document(artifact, run.folder) for artifact in run.artifacts]
    document = {"run": str(run.folder), "artifacts": artifacts, "report": run.report}
    return summary.outcome(document, run.report, run.folder, run.error, bundle=run.bundle)


def _follow(plan: Plan, start: Start) -> Sequence[Artifact]:
    """Prints the decision for each target and the folder, then shows the progress of the run."""
    from deploytool.pipeline import runner as pipeline_runner

    console = cli_console.stderr_console()
    for decision in plan.options.targets:
        cli_console.say(console, f"{decision.target:>12}  {decision.verdict}: {decision.why}")
    cli_console.unwrapped(console, f"into {plan.home}")
    recipe = (*plan.recipe, Stage.PACK) if plan.pack else plan.recipe
    with interrupt.sweeping(partial(pipeline_runner.sweep, plan.home)):
        return progress.follow(console, recipe, plan.home, start)


def _document(artifact: Artifact, home: Path) -> dict[str, object]:
    """An artifact in the JSON document; file and digest are null if its stage made no file."""
    is_made = not artifact.left_out
    file, digest = (str(artifact.path.relative_to(home)), artifact.digest) if is_made else (None, None)
    return {"stage": artifact.made_by, "file": file, "sha256": digest, "fresh": artifact.fresh}
