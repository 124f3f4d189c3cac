"""Plans an export: finds the model, checks the options, and decides what the stages will read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploytool import targets as targets_table
from deploytool.data import class_names, inputs_file
from deploytool.data import preprocess as data_preprocess
from deploytool.data.preprocess import StatedPreprocessing
from deploytool.errors import BadInput, MissingBackend, NotVerified
from deploytool.loading import catalog, factory, weights_file
from deploytool.pipeline import disk_estimate
from deploytool.pipeline import options as checks
from deploytool.pipeline.export_options import ExportOptions
from deploytool.pipeline.recipe import ONNX, recipe_for
from deploytool.spec import (
    AUTO,
    CLASSES_OPTION,
    Decision,
    Model,
    Options,
    Precision,
    Range,
    Source,
    Stage,
    TargetPlan,
    Tensor,
)

_ALL = 4096  # default number of golden cases from a file
_PHOTOGRAPHS = 64  # default number of golden images from a folder


@dataclass(frozen=True)
class Effort:
    """Defaults of a run: golden images, faults of each kind, seconds of timing, and the rewrite recipe."""

    images: int
    faults: int
    seconds: float
    rewrite: str


FULL = Effort(images=Options.images, faults=Options.faults, seconds=Options.seconds, rewrite=Options.rewrite)
QUICK = Effort(images=4, faults=0, seconds=0.0, rewrite="folded")  # a form that never adds work


@dataclass(frozen=True)
class Plan:
    """A planned export: the model, the resolved options, the stages in order, and the folder of the run."""

    model: Model
    options: Options
    recipe: tuple[Stage, ...]
    home: Path
    require: bool
    pack: bool


def plan_export(model: str | Model, asked: ExportOptions) -> Plan:
    """The plan of an export; nothing is written.

    Raises BadInput for an invalid option or an unknown model, MissingBackend where no engine can be built, NotVerified
    for a required target that is not served, and ResourceExhausted where the disk is too small.
    """
    checks.declared(asked)
    if asked.data and asked.golden_inputs:
        raise BadInput("golden inputs are asked for from a folder and from a file", "leave out --data or --inputs")
    golden = checks.file(Path(asked.golden_inputs)) if asked.golden_inputs else None
    definition = _definition(model, asked, golden)
    sizes = checks.sizes(asked.sizes or {}, definition.inputs)
    definition = data_preprocess.resolve(definition, _stated_preprocessing(asked), sizes)
    definition = _with_class_names(definition, asked.classes)
    options = _resolve(asked, definition, golden, sizes, _plan_engines(asked, definition))
    if options.min_speedup is not None and not options.seconds:
        raise BadInput("a speed-up is asked for, and no time to measure it in", "leave out --quick, or give --seconds")
    home = checks.run_folder(Path(asked.out or Path("artifacts") / definition.name))
    plan = Plan(definition, options, recipe_for(options, asked.to), home, asked.require, asked.pack)
    disk_estimate.check(plan.recipe, definition, options, home, weights_file.size(options.weights))
    return plan


def _definition(model: str | Model, asked: ExportOptions, golden: Source | None) -> Model:
    """The definition of a model, which may be given as it is or by its name or factory."""
    inputs = asked.inputs or _declared_inputs(model, golden)
    if isinstance(model, str):
        return catalog.find(model, checks.tensors(inputs), asked.arguments or {})
    if not isinstance(model, Model):
        problem = f"a model is named, and {type(model).__name__} is no name"
        raise BadInput(problem, "write where its factory stands: 'file.py:factory' or 'package.module:factory'")
    if inputs or asked.arguments:
        raise BadInput(f"{model.name} says itself what it is fed and built with", "write that into the Model")
    return model


def _declared_inputs(model: str | Model, golden: Source | None) -> Sequence[Tensor]:
    """The inputs that a file of golden inputs declares for a factory of the user's."""
    is_factory = isinstance(model, str) and ":" in model
    return inputs_file.declared(Path(golden.path)) if golden and is_factory else ()


def _stated_preprocessing(asked: ExportOptions) -> StatedPreprocessing:
    return StatedPreprocessing(
        preset=asked.preprocess,
        mean=checks.numbers(asked.mean),
        std=checks.numbers(asked.std),
        scale=asked.scale,
        channels=asked.channels,
        resize=asked.resize,
        crop=asked.crop,
        interpolation=asked.interpolation,
        layout=asked.layout,
    )


def _with_class_names(model: Model, classes: str | Path | Sequence[str]) -> Model:
    """The model with class names from a file or a sequence, if any are given."""
    if not classes:
        return model
    if isinstance(classes, (str, Path)):
        names = class_names.read(Path(classes))
    else:
        names = tuple(map(class_names.display_names, classes))
    return replace(model, classes=names, asked=(*model.asked, CLASSES_OPTION))


def _plan_engines(asked: ExportOptions, model: Model) -> tuple[Decision, ...]:
    """What becomes of each target; raises an error before any work is done if an engine cannot be made."""
    targets = checks.names(asked.targets)
    decisions = targets_table.plan_engines(targets) if asked.trt or targets else ()
    if decisions and targets_table.flavour() is None:
        raise MissingBackend("no TensorRT can build here: none is installed", "pip install 'deploytool[cpu]'")
    unserved = [decision for decision in decisions if decision.verdict is not TargetPlan.HERE]
    if asked.require and unserved:
        raise NotVerified(f"no engine for {unserved[0].target}: {unserved[0].why}", "leave it out, or drop --require")
    if asked.to == ONNX and (decisions or asked.pack):
        raise BadInput(
            "an engine and a bundle are made from the FP16 graph", "leave out --to onnx, or --trt and --pack"
        )
    if decisions:
        checks.for_engines(model.inputs)
    return decisions


def _resolve(
    asked: ExportOptions,
    model: Model,
    golden: Source | None,
    sizes: dict[str, Range],
    decisions: tuple[Decision, ...],
) -> Options:
    """The options in the form that the stages read, with the defaults that follow from others."""
    effort = QUICK if asked.quick else FULL
    batch = checks.size_range("batch", asked.batch)
    return Options(
        seed=asked.seed,
        weights=checks.file(Path(asked.weights)) if asked.weights else None,
        trust_code=asked.trust_code,
        images=checks.value_or(asked.images, _ALL if golden else _PHOTOGRAPHS if asked.data else effort.images),
        data=checks.folder(Path(asked.data)) if asked.data else None,
        inputs=golden,
        cases=checks.file(Path(asked.cases)) if asked.cases else None,
        exporter=asked.exporter,
        opset=asked.opset,
        batch=batch,
        sizes=sizes,
        rewrite=checks.value_or(asked.rewrite, effort.rewrite),
        rewrite_implied=asked.rewrite is None and effort.rewrite != AUTO,
        io=Precision(asked.io),
        keep_fp32=checks.keep_fp32(asked.keep_fp32),
        targets=decisions,
        engines=targets_table.engines(decisions),
        runner=asked.runner,
        tolerance=checks.tolerance(asked.tolerance or {}),
        faults=checks.value_or(asked.faults, effort.faults),
        min_speedup=asked.min_speedup,
        seconds=checks.value_or(asked.seconds, effort.seconds),
        sequence=asked.sequence,
        outputs=checks.names(asked.outputs),
        fixed_batch=_fixed_batch(model, batch),
    )


def _fixed_batch(model: Model, batch: Range) -> int | None:
    """The only batch size of a user's model, if one was given; models of the zoo take any."""
    return batch.smallest if batch.smallest == batch.largest and not factory.is_zoo(model.factory) else None
