"""`deploytool export`: the whole road, from a model's name to proved files; a client of `deploytool.export`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploytool.artifact import Artifact
from deploytool.cli import asked, completing, progress, screen, stop, summary
from deploytool.cli.manners import Outcome
from deploytool.forms import CHOICES
from deploytool.spec import Options
from deploytool.states import Precision, Stage

if TYPE_CHECKING:
    from deploytool.road import Plan, Start


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
            help="A name, or your own: file.py:factory, package.module:factory.",
            autocompletion=completing.model,
        ),
    ],
    trt: Annotated[bool, typer.Option("--trt", help="Build TensorRT engines too.")] = False,
    to: Annotated[End, typer.Option(help="Where to end: onnx is the FP32 graph, without TorchScript.")] = End.fp16,
    quick: Annotated[
        bool, typer.Option("--quick", help="Parity on four images alone: plant no faults, and time nothing.")
    ] = False,
    for_: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="TARGET,…",
            help="Targets to build for, with commas; implies --trt.",
            autocompletion=completing.target,
        ),
    ] = "",
    batch: Annotated[
        str, typer.Option(metavar="RANGE", help="Batch sizes of the engine: N, or SMALLEST:TYPICAL:LARGEST.")
    ] = "1:8:32",
    exporter: Annotated[
        Exporter, typer.Option(help="Of torch.onnx; default: torchscript, else dynamo; auto proves both.")
    ] = Exporter.default,
    opset: Annotated[int, typer.Option(min=18, max=20, help="The ONNX opset.")] = 18,
    rewrite: Annotated[
        str | None,
        typer.Option(
            metavar="FORM",
            help=f"Of the graph: {', '.join(CHOICES)}.",
            show_default="auto",
            autocompletion=completing.form,
        ),
    ] = None,
    io: Annotated[Precision, typer.Option(help="The type of the FP16 graph's inputs and outputs.")] = Precision.FP32,
    keep_fp32: Annotated[
        str,
        typer.Option(
            "--keep-fp32",
            metavar="NAME,…",
            help="Modules or nodes to keep in FP32, with commas; auto finds the fewest.",
        ),
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights and of the golden images.")] = 0,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A checkpoint: .safetensors, .pth or .pt.")
    ] = None,
    trust_code: Annotated[bool, typer.Option("--trust-code", help="Open checkpoints that are programs.")] = False,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="SHAPE",
            help="An input: [NAME=]3x224x224[:DTYPE[:BELOW]], the batch left out; NAME=:DTYPE is one number a case.",
        ),
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(metavar="WORD=RANGE", help="The range of a free size of an input.")
    ] = None,
    output: Annotated[
        str, typer.Option(metavar="NAME,…", help="Outputs to export, with commas; all of them if left out.")
    ] = "",
    arg: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An argument of the model's factory.")
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="How pixels become inputs: none (as they come, 0 to 255) or imagenet."),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="N,…", help="Taken from the scaled pixels: one number, or one a channel.")
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="N,…", help="What they are then divided by.")] = None,
    scale: Annotated[
        str | None, typer.Option(metavar="N", help="What pixels from 0 to 255 are multiplied by.", show_default="1/255")
    ] = None,
    channels: Annotated[str | None, typer.Option(metavar="ORDER", help="RGB or BGR.", show_default="RGB")] = None,
    resize: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Shorter side of pictures, HEIGHTxWIDTH, or none.")
    ] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What is cut out of their centre: SIDE, HEIGHTxWIDTH, or none.")
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of --resize: nearest, bilinear, bicubic, area, lanczos.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(metavar="ORDER", help="NCHW, or NHWC: channels last.", show_default="NCHW")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of photographs for the golden images.")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An .npz of golden inputs by name, the cases first.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The names of the classes, one a line, for the device.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, max=4096, help="How many golden images.")] = None,
    cases: Annotated[
        Path | None, typer.Option(metavar="FILE", help="More golden cases, from a file that `prove` made.")
    ] = None,
    runner: Annotated[Runner, typer.Option(help="What runs the graphs; reference is slow numpy.")] = Runner.onnxruntime,
    faults: Annotated[
        int | None, typer.Option(min=0, help="Faults of each kind to plant in the proof.", show_default="1")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0, max=3600, help="Time for measuring speed.", show_default=f"{Options.seconds:g}"),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="fp16=ERROR", help="Or fp32=ERROR: what is allowed, instead of what follows from the noise."
        ),
    ] = None,
    min_speedup: Annotated[float | None, typer.Option(min=0, help="Fail below this speed-up against eager.")] = None,
    require: Annotated[
        bool, typer.Option("--require", help="Fail unless everything asked for was measured here.")
    ] = False,
    pack: Annotated[bool, typer.Option("--pack", help="Pack a bundle if everything asked for held.")] = False,
    sequence: Annotated[int, typer.Option(min=0, help="With --pack: a device refuses a lower one.")] = 1,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the run.", show_default="artifacts/MODEL")
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every check as JUnit XML, for CI.")] = None,
) -> Outcome:
    """Makes TorchScript, ONNX, FP16 ONNX and with --trt an engine of MODEL, and proves each against the eager model.

    Examples: deploytool export shufflenet_g3 --trt · deploytool export mixnet_s --for rtx40,orin --batch 1:4:16
    """
    from deploytool import road  # here begins numpy

    run = road.export(
        model,
        trt=trt,
        to=to.value,
        quick=quick,
        targets=[name for name in for_.replace(" ", "").split(",") if name],
        batch=asked.span("--batch", batch),
        exporter=exporter.value,
        opset=opset,
        rewrite=rewrite,
        io=io,
        keep_fp32=asked.kept(keep_fp32),
        seed=seed,
        weights=weights,
        trust_code=trust_code,
        inputs=asked.tensors(input_ or ()),
        sizes=asked.sizes(size or ()),
        outputs=asked.outputs(output),
        arguments=asked.arguments(arg or ()),
        preprocess=preprocess,
        mean=asked.numbers("--mean", mean),
        std=asked.numbers("--std", std),
        scale=asked.scale(scale),
        channels=channels,
        resize=asked.side("--resize", resize),
        crop=asked.side("--crop", crop),
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
        tolerance=asked.tolerances(tolerance or ()),
        min_speedup=min_speedup,
        require=require,
        pack=pack,
        sequence=sequence,
        out=out,
        junit=junit,
        follow=_follow,
    )
    summary.show(screen.people(), run.report, run.folder)
    made = [_plain(artifact, run.folder) for artifact in run.artifacts]
    document = {"run": str(run.folder), "artifacts": made, "report": run.report}
    return summary.outcome(document, run.report, run.folder, run.error, bundle=run.bundle)


def _follow(plan: Plan, start: Start) -> Sequence[Artifact]:
    """Says what was decided, and goes along with the run."""
    from deploytool import pipeline

    console = screen.people()
    for decision in plan.options.targets:
        screen.say(console, f"{decision.target:>12}  {decision.verdict}: {decision.why}")
    screen.whole(console, f"into {plan.home}")
    recipe = (*plan.recipe, Stage.PACK) if plan.pack else plan.recipe
    with stop.sweeping(partial(pipeline.sweep, plan.home)):
        return progress.follow(console, recipe, plan.home, start)


def _plain(artifact: Artifact, home: Path) -> dict[str, object]:
    made = not artifact.left_out
    file, digest = (str(artifact.path.relative_to(home)), artifact.digest) if made else (None, None)
    return {"stage": artifact.made_by, "file": file, "sha256": digest, "fresh": artifact.fresh}
