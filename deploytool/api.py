"""The public API: `export()` runs the whole pipeline for a model and returns the run."""

from __future__ import annotations

import difflib
import inspect
import reprlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Concatenate, ParamSpec

from deploytool.errors import BadInput, DeployError, NotVerified, ParityFailed, TooSlow
from deploytool.host import disk, exception_text
from deploytool.pipeline import plan as pipeline_plan
from deploytool.pipeline import runner as pipeline_runner
from deploytool.pipeline import trust
from deploytool.pipeline.export_options import DECLARATIONS, TYPES, ExportOptions
from deploytool.pipeline.plan import Plan
from deploytool.report import update
from deploytool.results import baked_values, report, verdict
from deploytool.results.artifact import PAGE, Artifact, Kind
from deploytool.results.report import Report
from deploytool.run_folder import publish, staging
from deploytool.spec import GateOutcome, Job, Model, Stage, Verdict

Watch = Callable[[int, int], None]
P = ParamSpec("P")


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
def run_export(model: str | Model, options: ExportOptions, follow: Follow = no_progress) -> Run:
    """Exports a model as `export` does, with the options as one object.

    `follow` shows the progress: it gets the plan and a function that starts it, and returns the artifacts.
    """
    plan = pipeline_plan.plan_export(model, options)
    with update.prestarted(plan.home):
        artifacts = tuple(follow(plan, partial(_execute, plan)))
        publish.recover(plan.home)
        written = report.read(plan.home / Stage.VALIDATE / Kind.REPORT.value)
        update.refresh(written, plan.home, Path(options.junit) if options.junit else None)
    trust.note(plan.home)
    return Run(plan.home, artifacts, written, outcome_error(written, plan.home, require=plan.require))


def _keywords_of(
    options: Callable[P, ExportOptions],
) -> Callable[[Callable[[str | Model, ExportOptions], Run]], Callable[Concatenate[str | Model, P], Run]]:
    """A decorator that replaces the parameter `options` by its fields, as keywords for type checkers and help()."""

    def decorate(function: Callable[[str | Model, ExportOptions], Run]) -> Callable[Concatenate[str | Model, P], Run]:
        @wraps(function)
        def called(model: str | Model, *args: P.args, **keywords: P.kwargs) -> Run:
            if args:
                raise BadInput(
                    "the options of export are keywords, and one has no name", "write export(model, quick=True)"
                )
            check_keywords(keywords)
            return function(model, options(*args, **keywords))

        signature = inspect.signature(function)
        keywords = [
            parameter.replace(annotation=TYPES[name])
            for name, parameter in inspect.signature(options).parameters.items()
        ]
        parameters = [signature.parameters["model"], *keywords]
        called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        lines = (f"    {name}: {declaration.help}" for name, declaration in DECLARATIONS.items())
        called.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Options:", *lines])
        return called  # type: ignore[return-value]  # mypy takes every parameter of Concatenate as positional

    return decorate


def check_keywords(keywords: Collection[str]) -> None:
    """Raises BadInput for a keyword that is not an option of `export`."""
    for name in map(str, keywords):
        if name not in DECLARATIONS:
            named = [option for option, declared in DECLARATIONS.items() if declared.flag == name.replace("_", "-")]
            close = named or difflib.get_close_matches(name, DECLARATIONS, 1)
            remedy = f"did you mean {close[0]}?" if close else "help(deploytool.export) lists the options"
            raise BadInput(f"export has no option {exception_text.clean(reprlib.repr(name))}", remedy)


@_keywords_of(ExportOptions)
def export(model: str | Model, options: ExportOptions) -> Run:
    """Exports a model to TorchScript, ONNX, FP16 ONNX and, with `trt`, TensorRT; compares each with the eager model.

    `model` is a name that `deploytool models` lists, `file.py:factory`, `package.module:factory`, `hf:NAME` or
    `timm:NAME`. The keywords are the fields of `ExportOptions` and the options of the command line. With
    `to="onnx"` the pipeline ends at the FP32 graph. With `quick` nothing is timed, no fault is planted, and fewer
    images are compared; `images`, `faults`, `seconds` and `rewrite` override these defaults. `outputs` are the
    outputs to export, named by the keys of a dict, the fields of a dataclass or the positions in a tuple: `mask`,
    `past.0.key`, `output_1`.

    A failed check raises no exception: it is the run's `error`, which `check()` raises. Raises BadInput, MissingBackend
    or NotVerified (a required target without an engine) before any work is done, and StageFailed or ParityFailed if a
    tool refuses the model or changes what it computes. Any other exception, of the model or of a library, becomes a
    DeployError with that exception as its cause.
    """
    return run_export(model, options)


def _execute(plan: Plan, watch: Watch) -> Iterator[Artifact]:
    """Yields each artifact when it is finished; a bundle last, if one is requested and everything passed.

    Finally the run, with its report page, replaces the previous one.
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
    conclusion, pending, gate = verdict.conclude(written, home), verdict.unmeasured_lines(written), written.gate
    if conclusion.verdict is Verdict.FAIL:
        failed = "no tolerance can be set" if verdict.noise_failure(written) else "parity failed"
        return ParityFailed(f"{failed}: {conclusion.reasons[0]}", conclusion.next)
    if conclusion.verdict is Verdict.SLOW:
        return TooSlow(conclusion.reasons[0], conclusion.next)
    if conclusion.verdict is Verdict.UNPROVEN:
        return NotVerified(conclusion.reasons[0], conclusion.next)
    if require and (doubtful := baked_values.doubtful_lines(written.baked_values)):
        return NotVerified(f"not verified: {doubtful[0]}", "compute with tensors in that line, or drop --require")
    if require and pending:
        return NotVerified(f"not verified here: {pending[0]}", "run it on that device, or drop --require")
    if gate and gate.outcome is not GateOutcome.REACHED:
        return NotVerified(f"the speed of {gate.row}: {gate.reason}", "measure it on the device, or drop --min-speedup")
    return None
