"""Plans an export: finds the model, checks the options, and resolves them to what the stages read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploytool import serde
from deploytool import targets as targets_table
from deploytool.builder_settings import BuilderSettings
from deploytool.data import class_names, inputs_file, items, pixel_inputs
from deploytool.data import preprocess as data_preprocess
from deploytool.data.preprocess import StatedPreprocessing
from deploytool.errors import BadInput, MissingBackend, NotVerified
from deploytool.host import memory_estimate
from deploytool.loading import catalog, factory, weights_file
from deploytool.pipeline import disk_estimate, given_graph, metric_options
from deploytool.pipeline import options as checks
from deploytool.pipeline.export_options import ExportOptions, Io
from deploytool.pipeline.metric_options import MetricOptions
from deploytool.pipeline.recipe import ONNX, recipe_for
from deploytool.spec import (
    AUTO,
    CLASSES_OPTION,
    Decision,
    Model,
    Options,
    Range,
    Source,
    SourceKind,
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


def plan_export(model: str | Model, requested: ExportOptions) -> Plan:
    """The plan of an export; nothing is written.

    Raises BadInput for an invalid option or an unknown model, MissingBackend where no engine can be built, NotVerified
    for a required target that is not served, and ResourceExhausted where the disk or the memory is too small.
    """
    checks.declared(requested)
    checks.combinations(requested)
    if requested.data and requested.golden_inputs:
        raise BadInput("--data and --inputs are mutually exclusive", "leave one of them out")
    golden = checks.file(Path(requested.golden_inputs)) if requested.golden_inputs else None
    definition = _definition(model, requested, golden)
    checks.quantisation(requested, definition)
    if definition.given is not None:
        definition = given_graph.settle(definition, requested)
    stated = {**_default_sizes(definition), **(requested.sizes or {})}
    sizes, profiles = checks.sizes(stated, definition.inputs), checks.profiles(stated)
    resolve = pixel_inputs.resolve if requested.io == Io.UINT8 else data_preprocess.resolve
    definition = resolve(definition, _stated_preprocessing(requested), sizes)
    if definition.normalised and golden:
        pixel_inputs.check_file(definition, Path(golden.path))
    definition = _with_class_names(definition, requested.classes)
    measured = metric_options.settle(requested, definition)
    definition = measured.of(definition)
    options = _resolve(requested, definition, golden, sizes, _plan_engines(requested, definition), measured)
    options = replace(options, builder=replace(options.builder, profiles=profiles))
    if options.min_speedup is not None and not options.seconds:
        raise BadInput("--min-speedup needs a speed measurement, which is off", "leave out --quick, or give --seconds")
    home = checks.run_folder(Path(requested.out or Path("artifacts") / definition.name))
    if requested.junit:
        checks.output_file("--junit", Path(requested.junit), home)
    kind, is_quantised = factory.kind(definition.factory), definition.given is not None and definition.given.quantised
    recipe = recipe_for(options, requested.to, kind, options.precision, quantised=is_quantised)
    plan = Plan(definition, options, recipe, home, requested.require, requested.pack)
    memory_estimate.check_sizes(definition, options)
    disk_estimate.check(plan.recipe, definition, options, home, weights_file.size(options.weights))
    return plan


def _definition(model: str | Model, requested: ExportOptions, golden: Source | None) -> Model:
    """The definition of a model, which is given itself, by name or by its factory."""
    inputs = requested.inputs or _declared_inputs(model, golden)
    if isinstance(model, str):
        found = catalog.find(model, checks.tensors(inputs), requested.arguments or {}, trust_code=requested.trust_code)
        return replace(found, constants={**found.constants, **(requested.forward or {})})
    if not isinstance(model, Model):
        problem = f"the model must be a string or a Model, not {type(model).__name__}"
        raise BadInput(problem, "name its factory: 'file.py:factory' or 'package.module:factory'")
    if inputs or requested.arguments or requested.forward:
        raise BadInput(f"the Model {model.name} defines its inputs and arguments itself", "set them in the Model")
    return model


def _default_sizes(model: Model) -> dict[str, Range]:
    """The model's own ranges of those dynamic dimensions that its inputs have."""
    words = {side for tensor in model.inputs for side in tensor.shape[1:]}
    return {word: limits for word, limits in model.sizes.items() if word in words}


def _declared_inputs(model: str | Model, golden: Source | None) -> Sequence[Tensor]:
    """The inputs that a file of golden inputs declares for a user's factory."""
    is_factory = isinstance(model, str) and factory.kind(model) is SourceKind.CODE and ":" in model
    return inputs_file.declared(Path(golden.path)) if golden and is_factory else ()


def _stated_preprocessing(requested: ExportOptions) -> StatedPreprocessing:
    return StatedPreprocessing(
        preset=requested.preprocess,
        mean=checks.numbers(requested.mean),
        std=checks.numbers(requested.std),
        scale=requested.scale,
        channels=requested.channels,
        resize=requested.resize,
        crop=requested.crop,
        interpolation=requested.interpolation,
        layout=requested.layout,
        fit=requested.fit,
        pad=requested.pad,
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


def _plan_engines(requested: ExportOptions, model: Model) -> tuple[Decision, ...]:
    """The decision for each target; raises an error if an engine cannot be built."""
    targets = checks.names("--target", requested.targets)
    decisions = targets_table.plan_engines(targets) if requested.trt or targets else ()
    if decisions and targets_table.flavour() is None:
        raise MissingBackend("TensorRT is not installed, so no engine can be built", "pip install 'deploytool[cpu]'")
    unserved = [decision for decision in decisions if decision.verdict is not TargetPlan.HERE]
    if requested.require and unserved:
        raise NotVerified(f"no engine for {unserved[0].target}: {unserved[0].why}", "leave it out, or drop --require")
    if requested.to == ONNX and (decisions or requested.pack):
        raise BadInput(
            "engines and bundles need the FP16 graph, which --to onnx omits", "leave out --to onnx, or --trt and --pack"
        )
    if requested.strip_weights:
        targets_table.check_stripping(decisions)
    for precision in checks.precisions(requested.precision):
        targets_table.check_precision(decisions, precision, named=bool(targets))
    if decisions:
        checks.for_engines(model.inputs, checks.opset(requested, model))
    return decisions


def _resolve(
    requested: ExportOptions,
    model: Model,
    golden: Source | None,
    sizes: dict[str, Range],
    decisions: tuple[Decision, ...],
    measured: MetricOptions,
) -> Options:
    """The options in the form that the stages read, with defaults filled in."""
    effort = QUICK if requested.quick else FULL
    batch = checks.size_range("batch", requested.batch)
    if model.given is not None:
        batch = given_graph.batch_sizes(batch, model.given)
    return Options(
        seed=requested.seed,
        weights=checks.file(Path(requested.weights)) if requested.weights else None,
        trust_code=requested.trust_code,
        images=checks.value_or(requested.images, _ALL if golden else _PHOTOGRAPHS if requested.data else effort.images),
        data=_data(Path(requested.data)) if requested.data else None,
        inputs=golden,
        cases=checks.file(Path(requested.cases)) if requested.cases else None,
        exporter=requested.exporter,
        floor=dict(requested.floor or {}),
        opset=checks.opset(requested, model),
        opset_stated=requested.opset is not None,
        batch=batch,
        sizes=sizes,
        rewrite=checks.value_or(requested.rewrite, effort.rewrite),
        rewrite_implied=requested.rewrite is None and effort.rewrite != AUTO,
        io=Io(requested.io).precision,
        keep_fp32=checks.kept("--keep-fp32", requested.keep_fp32),
        calibration=_calibration(Path(requested.calibration)) if requested.calibration else None,
        keep=checks.kept("--keep", requested.keep),
        targets=decisions,
        engines=targets_table.engines(decisions),
        builder=BuilderSettings(
            *(requested.workspace, requested.builder_memory, requested.optimization_level),
            stripped=requested.strip_weights,
        ),
        runner=requested.runner,
        tolerance=checks.tolerance(requested.tolerance or {}),
        faults=checks.value_or(requested.faults, effort.faults),
        min_speedup=requested.min_speedup,
        seconds=checks.value_or(requested.seconds, effort.seconds),
        sequence=requested.sequence,
        outputs=checks.names("--output", requested.outputs),
        fixed_batch=_fixed_batch(model, batch),
        metric=measured.metric,
        labels=measured.labels,
        max_drop=measured.max_drop,
        precision=checks.precisions(requested.precision),
    )


def _data(path: Path) -> Source:
    """A folder of images, or a CSV file and the images that it lists, with a digest of sizes and times."""
    return _table(path) if items.is_table(path) else checks.folder(path)


def _calibration(path: Path) -> Source:
    """The same of calibration data, which may also be a file of inputs."""
    return _table(path) if items.is_table(path) else checks.file_or_folder(path)


def _table(path: Path) -> Source:
    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in items.files(path)]
    return Source(str(path), serde.digest(checks.file(path).digest, states))


def _fixed_batch(model: Model, batch: Range) -> int | None:
    """The only batch size of a user's model, if one is given; models of the zoo accept any."""
    if model.given is not None and model.given.batch is not None:
        return model.given.batch
    return batch.smallest if batch.smallest == batch.largest and not factory.is_zoo(model.factory) else None
