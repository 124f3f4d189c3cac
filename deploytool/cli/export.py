"""`deploytool export`: the whole road, from a model's name to proved files; a client of `deploytool.export`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.cli import completion, interrupt, params, progress, summary
from deploytool.cli import console as cli_console
from deploytool.cli.command import Outcome
from deploytool.results.artifact import Artifact
from deploytool.rewrites.recipes import CHOICES
from deploytool.spec import Options, Precision, Stage

if TYPE_CHECKING:
    from deploytool.api import Plan, Start


_MODEL, _PIXELS, _CONVERT = "Model", "Preprocessing", "Conversion"
_BUILD, _CHECK, _RUN = "TensorRT engines", "Checks", "Run and bundle"


class Exporter(str, Enum):
    """The two exporters of torch.onnx: one of them, the better proved of both, or the first that takes the model."""

    default = "default"
    torchscript = "torchscript"
    dynamo = "dynamo"
    auto = "auto"


class End(str, Enum):
    """Where the road ends, unless it goes on to an engine."""

    onnx = "onnx"
    fp16 = "fp16"


class Runner(str, Enum):
    """What runs the graphs in the parity check."""

    onnxruntime = "onnxruntime"
    reference = "reference"


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name that `deploytool models` lists, or your own: FILE.py:FACTORY or PACKAGE.MODULE:FACTORY.",
            autocompletion=completion.model,
        ),
    ],
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of random weights and of the golden images.", rich_help_panel=_MODEL)
    ] = 0,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A checkpoint: .safetensors, .pth or .pt.", rich_help_panel=_MODEL),
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Load checkpoints that can run code.", rich_help_panel=_MODEL)
    ] = False,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="SHAPE",
            help="An input without its batch: [NAME=]3x224x224[:DTYPE[:BELOW]]; NAME=:DTYPE is one number per case.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD=RANGE", help="The range of a dynamic dimension of an input.", rich_help_panel=_MODEL
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="Outputs to export, separated by commas; by default all of them.",
            rich_help_panel=_MODEL,
        ),
    ] = "",
    arg: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An argument of the model's factory.", rich_help_panel=_MODEL),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A preset for preprocessing: imagenet, or none for pixels from 0 to 255.",
            rich_help_panel=_PIXELS,
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            help="The mean to subtract from scaled pixels: one number, or one per channel.",
            rich_help_panel=_PIXELS,
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            help="The standard deviation to divide by: one number, or one per channel.",
            rich_help_panel=_PIXELS,
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="The factor that pixels from 0 to 255 are multiplied by.",
            rich_help_panel=_PIXELS,
            show_default="1/255",
        ),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            metavar="ORDER",
            help="The order of the colour channels: RGB or BGR.",
            rich_help_panel=_PIXELS,
            show_default="RGB",
        ),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Resize images to this shorter side or HEIGHTxWIDTH; none leaves their size.",
            rich_help_panel=_PIXELS,
        ),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Crop the centre of images to SIDE or HEIGHTxWIDTH; none crops nothing.",
            rich_help_panel=_PIXELS,
        ),
    ] = None,
    interpolation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="How to resize: nearest, bilinear, bicubic, area or lanczos.", rich_help_panel=_PIXELS
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="ORDER",
            help="The layout of the input: NCHW, or NHWC for channels last.",
            rich_help_panel=_PIXELS,
            show_default="NCHW",
        ),
    ] = None,
    to: Annotated[
        End,
        typer.Option(
            help="The last file to make; onnx ends at the FP32 graph and makes no TorchScript.",
            rich_help_panel=_CONVERT,
        ),
    ] = End.fp16,
    exporter: Annotated[
        Exporter,
        typer.Option(
            help="The torch.onnx exporter; default takes torchscript, else dynamo; auto compares both.",
            rich_help_panel=_CONVERT,
        ),
    ] = Exporter.default,
    opset: Annotated[int, typer.Option(min=18, max=20, help="The ONNX opset.", rich_help_panel=_CONVERT)] = 18,
    rewrite: Annotated[
        str | None,
        typer.Option(
            metavar="FORM",
            help=f"The form of the graph: {', '.join(CHOICES)}.",
            rich_help_panel=_CONVERT,
            show_default="auto",
            autocompletion=completion.form,
        ),
    ] = None,
    io: Annotated[
        Precision, typer.Option(help="The type of the inputs and outputs of the FP16 graph.", rich_help_panel=_CONVERT)
    ] = Precision.FP32,
    keep_fp32: Annotated[
        str,
        typer.Option(
            "--keep-fp32",
            metavar="NAME,…",
            help="Modules or nodes to keep in FP32, separated by commas; auto finds the fewest.",
            rich_help_panel=_CONVERT,
        ),
    ] = "",
    trt: Annotated[bool, typer.Option("--trt", help="Build TensorRT engines as well.", rich_help_panel=_BUILD)] = False,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="TARGET,…",
            help="Targets to build engines for, separated by commas; implies --trt.",
            rich_help_panel=_BUILD,
            autocompletion=completion.target,
        ),
    ] = "",
    batch: Annotated[
        str,
        typer.Option(
            metavar="RANGE", help="Batch sizes of the engine: N, or SMALLEST:TYPICAL:LARGEST.", rich_help_panel=_BUILD
        ),
    ] = "1:8:32",
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Check parity on four images only; plant no faults and measure no speed.",
            rich_help_panel=_CHECK,
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A folder of photographs to use as golden images.", rich_help_panel=_CHECK),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An .npz file of golden inputs by name, with the cases along the first axis.",
            rich_help_panel=_CHECK,
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Number of golden images.", rich_help_panel=_CHECK)
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A file of more golden cases, as `faults` writes it.", rich_help_panel=_CHECK
        ),
    ] = None,
    runner: Annotated[
        Runner,
        typer.Option(
            help="The runtime that checks the graphs; reference is slow and uses numpy.", rich_help_panel=_CHECK
        ),
    ] = Runner.onnxruntime,
    faults: Annotated[
        int | None,
        typer.Option(min=0, help="Number of faults of each kind to plant.", rich_help_panel=_CHECK, show_default="1"),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=3600,
            help="Seconds to spend on measuring speed.",
            rich_help_panel=_CHECK,
            show_default=f"{Options.seconds:g}",
        ),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="fp16=ERROR",
            help="The largest error to allow, also fp32=ERROR; by default it follows from the noise of the model.",
            rich_help_panel=_CHECK,
        ),
    ] = None,
    min_speedup: Annotated[
        float | None,
        typer.Option(min=0, help="Fail if the speed-up over eager PyTorch is smaller.", rich_help_panel=_CHECK),
    ] = None,
    require: Annotated[
        bool,
        typer.Option(
            "--require",
            help="Fail unless everything that was asked for could be measured on this machine.",
            rich_help_panel=_CHECK,
        ),
    ] = False,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file with the names of the classes, one per line, for the bundle.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    pack: Annotated[
        bool, typer.Option("--pack", help="Pack a bundle if every check passed.", rich_help_panel=_RUN)
    ] = False,
    sequence: Annotated[
        int,
        typer.Option(
            min=0, help="The bundle's sequence number; a device refuses a lower one than it has.", rich_help_panel=_RUN
        ),
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The folder of the run.", rich_help_panel=_RUN, show_default="artifacts/MODEL"
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write every check to a JUnit XML file, for CI.", rich_help_panel=_RUN),
    ] = None,
) -> Outcome:
    """Exports MODEL to TorchScript, ONNX, FP16 ONNX and with --trt to engines, and checks each against the eager model.

    Examples: deploytool export shufflenet_g3 --trt · deploytool export mixnet_s --target rtx40,orin --batch 1:4:16
    """
    from deploytool import api  # here begins numpy

    run = api.export(
        model,
        trt=trt,
        to=to.value,
        quick=quick,
        targets=[name for name in target.replace(" ", "").split(",") if name],
        batch=params.span("--batch", batch),
        exporter=exporter.value,
        opset=opset,
        rewrite=rewrite,
        io=io,
        keep_fp32=params.keep_fp32(keep_fp32),
        seed=seed,
        weights=weights,
        trust_code=trust_code,
        inputs=params.tensors(input_ or ()),
        sizes=params.sizes(size or ()),
        outputs=params.outputs(output),
        arguments=params.arguments(arg or ()),
        preprocess=preprocess,
        mean=params.numbers("--mean", mean),
        std=params.numbers("--std", std),
        scale=params.scale(scale),
        channels=channels,
        resize=params.side("--resize", resize),
        crop=params.side("--crop", crop),
        interpolation=interpolation,
        layout=layout,
        data=data,
        golden_inputs=inputs,
        classes=classes or (),
        images=images,
        cases=cases,
        runner=runner.value,
        faults=faults,
        seconds=seconds,
        tolerance=params.tolerances(tolerance or ()),
        min_speedup=min_speedup,
        require=require,
        pack=pack,
        sequence=sequence,
        out=out,
        junit=junit,
        follow=_follow,
    )
    summary.show(cli_console.stderr_console(), run.report, run.folder)
    made = [_plain(artifact, run.folder) for artifact in run.artifacts]
    document = {"run": str(run.folder), "artifacts": made, "report": run.report}
    return summary.outcome(document, run.report, run.folder, run.error, bundle=run.bundle)


def _follow(plan: Plan, start: Start) -> Sequence[Artifact]:
    """Says what was decided, and goes along with the run."""
    from deploytool.pipeline import runner as pipeline_runner

    console = cli_console.stderr_console()
    for decision in plan.options.targets:
        cli_console.say(console, f"{decision.target:>12}  {decision.verdict}: {decision.why}")
    cli_console.unwrapped(console, f"into {plan.home}")
    recipe = (*plan.recipe, Stage.PACK) if plan.pack else plan.recipe
    with interrupt.sweeping(partial(pipeline_runner.sweep, plan.home)):
        return progress.follow(console, recipe, plan.home, start)


def _plain(artifact: Artifact, home: Path) -> dict[str, object]:
    made = not artifact.left_out
    file, digest = (str(artifact.path.relative_to(home)), artifact.digest) if made else (None, None)
    return {"stage": artifact.made_by, "file": file, "sha256": digest, "fresh": artifact.fresh}
