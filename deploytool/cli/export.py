"""`deploytool export`: the whole road, from a model's name to files that are proved."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from deploytool import catalog, pipeline, report, targets, verdict
from deploytool.artifact import Artifact
from deploytool.cli import asked, leaf, screen, summary
from deploytool.errors import DeployError, MissingBackend, NotVerified, ParityFailed, TooSlow
from deploytool.proof import CASES
from deploytool.report import Report
from deploytool.spec import Decision, Job, Options

_DRAWN, _PHOTOGRAPHS = 12, 64  # golden images, unless --images says how many


class Exporter(str, Enum):
    """The two exporters of torch.onnx, or the better proved of both."""

    torchscript = "torchscript"
    dynamo = "dynamo"
    auto = "auto"


class Io(str, Enum):
    """The type of the FP16 graph's inputs and outputs."""

    fp32 = "fp32"
    fp16 = "fp16"


class Runner(str, Enum):
    """What runs the graphs in the parity check."""

    onnxruntime = "onnxruntime"
    reference = "reference"


def export(
    model: Annotated[str, typer.Argument(help="A name, or your own: file.py:factory, package.module:factory.")],
    trt: Annotated[bool, typer.Option("--trt", help="Build TensorRT engines too.")] = False,
    for_: Annotated[str, typer.Option("--for", help="Targets to build for, with commas; implies --trt.")] = "",
    batch: Annotated[str, typer.Option(help="Range sizes of the engine: N, or SMALLEST:TYPICAL:LARGEST.")] = "1:8:32",
    exporter: Annotated[Exporter, typer.Option(help="Of torch.onnx; auto proves both.")] = Exporter.torchscript,
    opset: Annotated[int, typer.Option(min=18, max=20, help="The ONNX opset.")] = 18,
    rewrite: Annotated[str, typer.Option(help="The form of the graph: auto, none, or a recipe by name.")] = "auto",
    io: Annotated[Io, typer.Option(help="The type of the FP16 graph's inputs and outputs.")] = Io.fp32,
    keep_fp32: Annotated[
        str, typer.Option("--keep-fp32", help="Modules or nodes to keep in FP32, with commas; auto finds the fewest.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights and of the golden images.")] = 0,
    weights: Annotated[Path | None, typer.Option(help="A checkpoint: .safetensors, .pth or .pt.")] = None,
    trust_code: Annotated[bool, typer.Option("--trust-code", help="Open checkpoints that are programs.")] = False,
    input_: Annotated[list[str] | None, typer.Option("--input", help="[NAME=]3x224x224[:DTYPE[:BELOW]]")] = None,
    size: Annotated[list[str] | None, typer.Option(help="WORD=MIN:TYPICAL:MAX, for a free size of an input.")] = None,
    arg: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, an argument of the model's factory.")] = None,
    data: Annotated[Path | None, typer.Option(help="A folder of photographs for the golden images.")] = None,
    images: Annotated[int | None, typer.Option(min=1, max=4096, help="How many golden images.")] = None,
    cases: Annotated[Path | None, typer.Option(help="More golden cases, from a file that `prove` made.")] = None,
    runner: Annotated[Runner, typer.Option(help="What runs the graphs; reference is slow numpy.")] = Runner.onnxruntime,
    faults: Annotated[int, typer.Option(min=1, help="Faults of each kind to plant in the proof.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Time for measuring speed.")] = 3.0,
    tolerance: Annotated[
        list[str] | None, typer.Option(help="fp16=ERROR or fp32=ERROR, instead of what follows from the noise.")
    ] = None,
    min_speedup: Annotated[float | None, typer.Option(min=0, help="Fail below this speed-up against eager.")] = None,
    require: Annotated[
        bool, typer.Option("--require", help="Fail unless everything asked for was measured here.")
    ] = False,
    pack: Annotated[bool, typer.Option("--pack", help="Pack a bundle if everything asked for held.")] = False,
    sequence: Annotated[int, typer.Option(min=0, help="With --pack: a device refuses a lower one.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="artifacts/MODEL")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write every check as JUnit XML, for CI.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Makes TorchScript, ONNX, FP16 ONNX and with --trt an engine of MODEL, and proves each against the eager model.

    Examples: deploytool export shufflenet_g3 --trt · deploytool export mixnet_s --for rtx40,orin --batch 1:4:16
    """
    console = screen.people(as_json=as_json)
    found = catalog.find(model, asked.tensors(input_ or ()), asked.arguments(arg or ()))
    sizes = asked.sizes(size or (), found.inputs)
    wanted = [name for name in for_.replace(" ", "").split(",") if name]
    decisions = targets.decide(wanted) if trt or wanted else ()
    for decision in decisions:
        screen.say(console, f"{decision.target:>12}  {decision.verdict}: {decision.why}")
    _refuse(decisions, require=require)
    options = Options(
        seed=seed,
        weights=asked.file(weights) if weights else None,
        trust_code=trust_code,
        images=images or (_PHOTOGRAPHS if data else _DRAWN),
        data=asked.folder(data) if data else None,
        cases=asked.file(cases) if cases else None,
        exporter=exporter.value,
        opset=opset,
        batch=asked.span("--batch", batch),
        sizes=sizes,
        rewrite=rewrite,
        io=io.value,
        keep_fp32=asked.kept(keep_fp32),
        targets=decisions,
        engines=targets.engines(decisions),
        runner=runner.value,
        tolerance=asked.tolerances(tolerance or ()),
        faults=faults,
        min_speedup=min_speedup,
        seconds=seconds,
        sequence=sequence,
    )
    recipe = [verb for verb in targets.ROAD if options.engines or verb != "build"]
    home = out or Path("artifacts") / found.name
    artifacts = screen.follow(console, recipe, lambda watch: pipeline.run(Job(found, options, watch), recipe, home))
    written = report.read(artifacts[-1].path)
    failure = _failure(written, home, require=require)
    leaf.leave(written, home, junit)
    if pack and not failure:
        artifacts += screen.follow(console, ["pack"], lambda watch: [pipeline.extend("pack", options, home)])
    if as_json:
        made = [_plain(artifact, home) for artifact in artifacts]
        screen.document({"run": str(home), "artifacts": made, "report": written, "error": screen.told(failure)})
    summary.show(console, written, home)
    if failure:
        screen.failure(failure)
        raise typer.Exit(failure.exit_code)


def _refuse(decisions: Sequence[Decision], *, require: bool) -> None:
    """Ends before any work is done, if no engine can come of it or not all that are required."""
    if decisions and targets.flavour() is None:
        raise MissingBackend("no TensorRT can build here: none is installed", "pip install 'deploytool[cpu]'")
    unserved = [decision for decision in decisions if decision.verdict != targets.HERE]
    if require and unserved:
        raise NotVerified(f"no engine for {unserved[0].target}: {unserved[0].why}", "leave it out, or drop --require")


def _plain(artifact: Artifact, home: Path) -> dict[str, object]:
    file = artifact.path.relative_to(home)
    return {"stage": artifact.made_by, "file": str(file), "sha256": artifact.digest, "fresh": artifact.fresh}


def _failure(written: Report, home: Path, *, require: bool) -> DeployError | None:
    """What keeps the run from ending with 0: it does only if everything that was asked for held."""
    failed, pending, gate = verdict.broken(written), verdict.unmeasured(written), written.gate
    if failed:
        remedy = f"try {verdict.KEEP}; " if verdict.mends(written) else ""
        return ParityFailed(f"parity failed: {failed[0]}", f"{remedy}`deploytool blame` names the layer")
    if gate and gate.status == report.MEASURED and not gate.reached:
        problem = f"{gate.stage} is not surely {gate.min_speedup:g}× as fast as eager"
        return TooSlow(problem, "see the speed table above, or ask for less")
    if written.proof and written.proof.weak:
        remedy = f"export again with --cases {home / 'prove' / CASES}"
        return NotVerified(f"the golden cases miss {verdict.missing(written.proof)}", remedy)
    if require and pending:
        return NotVerified(f"not verified here: {pending[0]}", "run it where that device is, or drop --require")
    if gate and not gate.reached:
        return NotVerified(
            f"the speed of {gate.stage}: {gate.status}", "measure it on the device, or drop --min-speedup"
        )
    return None
