"""The whole pipeline as one call: `export()` makes the files of a model and checks every one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from deploytool import targets as places
from deploytool.data import class_names as naming
from deploytool.data import inputs_file
from deploytool.data import preprocess as preparing
from deploytool.data.preprocess import StatedPreprocessing
from deploytool.errors import BadInput, DeployError, MissingBackend, NotVerified, ParityFailed, TooSlow
from deploytool.host import disk, exception_text
from deploytool.loading import catalog, factory, weights_file
from deploytool.pipeline import disk_estimate, trust
from deploytool.pipeline import options as pipeline_options
from deploytool.pipeline import runner as pipeline_runner
from deploytool.pipeline.options import Span
from deploytool.pipeline.recipe import ENDS, FP16, ONNX, recipe_for
from deploytool.report import update
from deploytool.report.stamp import PAGE
from deploytool.results import baked_values, report, verdict
from deploytool.results.artifact import Artifact, Kind
from deploytool.results.report import Report
from deploytool.rewrites import recipes
from deploytool.run_folder import publish, staging
from deploytool.spec import (
    AUTO,
    CLASSES_OPTION,
    DEFAULT,
    Decision,
    GateOutcome,
    ImageSize,
    Job,
    Model,
    Option,
    Options,
    Precision,
    Range,
    Source,
    Stage,
    TargetPlan,
    Tensor,
    Verdict,
)

Watch = Callable[[int, int], None]

EXPORTERS, IO, RUNNERS = (DEFAULT, "torchscript", "dynamo", AUTO), tuple(Precision), ("onnxruntime", "reference")
_ALL = 4096  # golden cases from a file, by default
_PHOTOGRAPHS = 64  # golden images from a folder, by default


@dataclass(frozen=True)
class Plan:
    """A planned export: the model, the options, the stages in order, and the folder of the run."""

    model: Model
    options: Options
    recipe: tuple[Stage, ...]
    home: Path
    require: bool
    pack: bool


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its artifacts in the order of the stages, its report, and the failure, if any.

    The path of a file that was not made is None.
    """

    folder: Path
    artifacts: tuple[Artifact, ...]
    report: Report
    error: DeployError | None

    @property
    def passed(self) -> bool:
        """Whether every check and every requirement passed."""
        return self.error is None

    def check(self) -> Run:
        """The run itself; raises the failure: ParityFailed, TooSlow or NotVerified."""
        if self.error:
            raise self.error
        return self

    @property
    def script(self) -> Path | None:
        """The TorchScript module, if the model can be traced."""
        return self._made(Stage.TORCHSCRIPT)

    @property
    def onnx(self) -> Path | None:
        """The FP32 graph that ONNX Runtime runs fastest."""
        return self._made(Stage.REWRITE)

    @property
    def fp16(self) -> Path | None:
        """The strongly typed FP16 graph, which engines are built from."""
        return self._made(Stage.FP16)

    @property
    def engines(self) -> tuple[Path, ...]:
        """The TensorRT engines, the main one first."""
        return tuple(self.folder / Stage.BUILD / engine.file for engine in self.report.engines)

    @property
    def bundle(self) -> Path | None:
        """The folder of the bundle, if one was packed."""
        manifest = self._made(Stage.PACK)
        return manifest.parent if manifest else None

    @property
    def report_json(self) -> Path:
        """The report as a file."""
        return self.folder / Stage.VALIDATE / Kind.REPORT.value

    @property
    def report_html(self) -> Path | None:
        """The report as an HTML page, if one was written."""
        page = self.folder / PAGE
        return page if page.is_file() else None

    def _made(self, verb: Stage) -> Path | None:
        made = (artifact for artifact in self.artifacts if not artifact.left_out)
        return next((artifact.path for artifact in made if artifact.made_by is verb), None)


Start = Callable[[Watch], Iterator[Artifact]]
Follow = Callable[[Plan, Start], Sequence[Artifact]]


def no_progress(_: Plan, start: Start) -> Sequence[Artifact]:
    """Runs a plan without showing its progress."""
    return tuple(start(lambda done, total: None))


@exception_text.as_deploy_errors()
def export(
    model: str | Model,
    *,
    trt: bool = False,
    to: str = FP16,
    quick: bool = False,
    targets: Sequence[str] = (),
    batch: Span = Range(),  # noqa: B008  # frozen
    exporter: str = DEFAULT,
    opset: int = 18,
    rewrite: str | None = None,
    io: str = Precision.FP32,
    keep_fp32: str | Sequence[str] = (),
    seed: int = 0,
    weights: str | Path | None = None,
    trust_code: bool = False,
    inputs: Sequence[Tensor | tuple[int | str, ...]] = (),
    sizes: Mapping[str, Span] | None = None,
    outputs: Sequence[str] = (),
    arguments: Mapping[str, Option] | None = None,
    preprocess: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    scale: float | None = None,
    channels: str | None = None,
    resize: ImageSize | None = None,
    crop: ImageSize | None = None,
    interpolation: str | None = None,
    layout: str | None = None,
    data: str | Path | None = None,
    golden_inputs: str | Path | None = None,
    classes: str | Path | Sequence[str] = (),
    images: int | None = None,
    cases: str | Path | None = None,
    runner: str = "onnxruntime",
    faults: int | None = None,
    seconds: float | None = None,
    tolerance: Mapping[str, float] | None = None,
    min_speedup: float | None = None,
    require: bool = False,
    pack: bool = False,
    sequence: int = 1,
    out: str | Path | None = None,
    junit: str | Path | None = None,
    follow: Follow = no_progress,
) -> Run:
    """Exports a model to TorchScript, ONNX, FP16 ONNX and, with `trt`, TensorRT; compares each with the eager model.

    `model` is a name that `deploytool models` lists, `file.py:factory` or `package.module:factory`; the other
    parameters are the options of the command line. An entry of `inputs` may be a shape without the batch:
    `(3, 224, 224)`. `mean` and `std` are one number or one for each channel; `resize` and `crop` are one length,
    (height, width), or 0 for none. `classes` are the class names, or a file with one name on each line.
    `golden_inputs` is the file of `--inputs`: golden inputs by name, which also declares the inputs where `inputs` is
    empty. With `to="onnx"` the pipeline ends at the FP32 graph. With `quick` nothing is timed, no fault is planted, and
    fewer images are compared; `images`, `faults`, `seconds` and `rewrite` override this one by one. `outputs` are the
    outputs to export, by the names that a dict, a dataclass or the positions in a tuple give them: `mask`,
    `past.0.key`, `output_1`. `follow` shows the progress: it gets the plan and a function that starts it, and returns
    the artifacts.

    A check that fails is no exception: it is the run's `error`, which `check()` raises. Raises BadInput, MissingBackend
    or NotVerified (a required target that cannot be served) before any work is done, and StageFailed or ParityFailed if
    a tool refuses the model or changes what it computes. Any other exception, of the model or of a library, becomes a
    DeployError with that exception as its cause.
    """
    if data and golden_inputs:
        raise BadInput("golden inputs are asked for from a folder and from a file", "leave out --data or --inputs")
    file = pipeline_options.file(Path(golden_inputs)) if golden_inputs else None
    found = _found(model, inputs or _declared(model, file), arguments or {})
    ranges = pipeline_options.sizes(sizes or {}, found.inputs)
    stated = StatedPreprocessing(
        preset=preprocess,
        mean=pipeline_options.numbers(mean),
        std=pipeline_options.numbers(std),
        scale=scale,
        channels=channels,
        resize=resize,
        crop=crop,
        interpolation=interpolation,
        layout=layout,
    )
    found = _named(preparing.resolve(found, stated, ranges), classes)
    decisions = places.plan_engines(tuple(targets)) if trt or targets else ()
    _refuse(decisions, require=require)
    if pipeline_options.choice("to", to, ENDS) == ONNX and (decisions or pack):
        raise BadInput(
            "an engine and a bundle are made from the FP16 graph", "leave out --to onnx, or --trt and --pack"
        )
    if decisions:
        pipeline_options.for_engines(found.inputs)
    effort = pipeline_options.QUICK if quick else pipeline_options.FULL
    options = Options(
        seed=seed,
        weights=pipeline_options.file(Path(weights)) if weights else None,
        trust_code=trust_code,
        images=pipeline_options.value_or(images, _ALL if file else _PHOTOGRAPHS if data else effort.images),
        data=pipeline_options.folder(Path(data)) if data else None,
        inputs=file,
        cases=pipeline_options.file(Path(cases)) if cases else None,
        exporter=pipeline_options.choice("exporter", exporter, EXPORTERS),
        opset=opset,
        batch=pipeline_options.size_range("batch", batch),
        sizes=ranges,
        rewrite=pipeline_options.choice("rewrite", pipeline_options.value_or(rewrite, effort.rewrite), recipes.CHOICES),
        rewrite_implied=rewrite is None and effort.rewrite != AUTO,
        io=Precision(pipeline_options.choice("io", io, IO)),
        keep_fp32=(keep_fp32,) if isinstance(keep_fp32, str) else tuple(keep_fp32),
        targets=decisions,
        engines=places.engines(decisions),
        runner=pipeline_options.choice("runner", runner, RUNNERS),
        tolerance=pipeline_options.tolerance(tolerance or {}),
        faults=pipeline_options.value_or(faults, effort.faults),
        min_speedup=min_speedup,
        seconds=pipeline_options.value_or(seconds, effort.seconds),
        sequence=sequence,
        outputs=(outputs,) if isinstance(outputs, str) else tuple(outputs),
        fixed_batch=_fixed(found, batch),
    )
    pipeline_options.within(options)
    plan = Plan(
        found,
        options,
        recipe_for(options, to),
        pipeline_options.run_folder(Path(out or Path("artifacts") / found.name)),
        require,
        pack,
    )
    disk_estimate.check(plan.recipe, found, options, plan.home, weights_file.size(options.weights))
    with update.prestarted(plan.home):
        made = tuple(follow(plan, partial(_execute, plan)))
        publish.recover(plan.home)
        written = report.read(plan.home / Stage.VALIDATE / Kind.REPORT.value)
        update.refresh(written, plan.home, Path(junit) if junit else None)
    trust.note(plan.home)
    return Run(plan.home, made, written, outcome_error(written, plan.home, require=require))


def _execute(plan: Plan, watch: Watch) -> Iterator[Artifact]:
    """Yields every artifact when it is finished; a bundle last, if one is requested and everything passed.

    Then the run, with its page, replaces the one that was there.
    """
    with staging.open_run(plan.home) as staged, disk.writing(staged.at, named=plan.home):
        yield from pipeline_runner.iterate(Job(plan.model, plan.options, watch), plan.recipe, staged)
        written = report.read(staged.at / Stage.VALIDATE / Kind.REPORT.value)
        if plan.pack and outcome_error(written, plan.home, require=plan.require) is None:
            yield pipeline_runner.extend_staged(Stage.PACK, plan.options, staged)
        staged.gather()
        update.refresh(written, staged.at, final=plan.home)
        staged.publish()


def outcome_error(written: Report, home: Path, *, require: bool) -> DeployError | None:
    """The failure of a run; None if every check and every requirement passed."""
    found, pending, gate = verdict.conclude(written, home), verdict.unmeasured_lines(written), written.gate
    if found.verdict is Verdict.FAIL:
        failed = "no tolerance can be set" if verdict.noise_failure(written) else "parity failed"
        return ParityFailed(f"{failed}: {found.reasons[0]}", found.next)
    if found.verdict is Verdict.SLOW:
        return TooSlow(found.reasons[0], found.next)
    if found.verdict is Verdict.UNPROVEN:
        return NotVerified(found.reasons[0], found.next)
    if require and (doubtful := baked_values.doubtful_lines(written.baked_values)):
        return NotVerified(f"not verified: {doubtful[0]}", "let that line compute with tensors, or drop --require")
    if require and pending:
        return NotVerified(f"not verified here: {pending[0]}", "run it where that device is, or drop --require")
    if gate and gate.outcome is not GateOutcome.REACHED:
        return NotVerified(
            f"the speed of {gate.stage}: {gate.reason}", "measure it on the device, or drop --min-speedup"
        )
    return None


def _found(
    model: str | Model, inputs: Sequence[Tensor | tuple[int | str, ...]], arguments: Mapping[str, Option]
) -> Model:
    if isinstance(model, str):
        return catalog.find(model, pipeline_options.tensors(inputs), arguments)
    if not isinstance(model, Model):
        problem = f"a model is named, and {type(model).__name__} is no name"
        raise BadInput(problem, "write where its factory stands: 'file.py:factory' or 'package.module:factory'")
    if inputs or arguments:
        raise BadInput(f"{model.name} says itself what it is fed and built with", "write that into the Model")
    return model


def _named(model: Model, classes: str | Path | Sequence[str]) -> Model:
    """The model with the names of its classes, of a file or as they are, if any were given."""
    if not classes:
        return model
    names = (
        naming.read(Path(classes)) if isinstance(classes, (str, Path)) else tuple(map(naming.display_names, classes))
    )
    return replace(model, classes=names, asked=(*model.asked, CLASSES_OPTION))


def _declared(model: str | Model, file: Source | None) -> tuple[Tensor, ...]:
    """What a file of inputs says of a model that is a factory, where nobody declared what it takes."""
    own = isinstance(model, str) and ":" in model
    return inputs_file.declared(Path(file.path)) if file and own else ()


def _fixed(model: Model, batch: Span) -> int | None:
    """The only batch that was asked for, if it is one and the model is none of ours, which take any."""
    asked = pipeline_options.size_range("batch", batch)
    return asked.smallest if asked.smallest == asked.largest and not factory.is_zoo(model.factory) else None


def _refuse(decisions: Sequence[Decision], *, require: bool) -> None:
    """Ends before any work is done, if no engine can come of it or not all that are required."""
    if decisions and places.flavour() is None:
        raise MissingBackend("no TensorRT can build here: none is installed", "pip install 'deploytool[cpu]'")
    unserved = [decision for decision in decisions if decision.verdict is not TargetPlan.HERE]
    if require and unserved:
        raise NotVerified(f"no engine for {unserved[0].target}: {unserved[0].why}", "leave it out, or drop --require")
