"""Measures the source and every artifact by the user's metric, on all images of --data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from deploytool import serde
from deploytool.backends import eager
from deploytool.backends.session import Session
from deploytool.data import batches
from deploytool.data.batches import Batch
from deploytool.data.labels import read as data_labels
from deploytool.data.labels.labelled_images import LabelledImages
from deploytool.errors import MissingBackend
from deploytool.loading.stage_inputs import StageInputs
from deploytool.metrics import catalog, hardest, label_checks
from deploytool.metrics import evaluator as metrics_evaluator
from deploytool.metrics.evaluator import Answers, Evaluator
from deploytool.metrics.hardest import Difference
from deploytool.parity import checks
from deploytool.parity.checks import PlannedComparison
from deploytool.parity.replay import SMALL_BATCHES, replay
from deploytool.results.artifact import Notes
from deploytool.results.measure import AGREEMENT, MeasuredArtifact, Measures
from deploytool.spec import Job, Model, Range, Stage, Status, Task


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the measures of all artifacts; an artifact that does not run here has none.

    Without a metric these are the agreement of the INT8 and FP8 graphs with the source's decisions, without images on
    the golden cases.

    Raises BadInput for images, labels or a metric that cannot be used.
    """
    options, definition = job.options, inputs.source().definition
    metric = options.metric.path if options.metric else AGREEMENT
    labelled = data_labels.of_run(options, definition) if options.data else LabelledImages((), ())
    evaluator = metrics_evaluator.choose(metric, definition, labelled)
    margin = evaluator.margin if options.max_drop is None else options.max_drop
    artifacts, source, differences = _measure(job, inputs, labelled, evaluator, margin)
    result = Measures(
        metric=metric,
        task=definition.task,
        margin=margin,
        stated=options.max_drop is not None,
        data=options.data.path if options.data else "",
        images=len(source.figures),
        source=evaluator.value(source),
        artifacts=artifacts,
        hardest=tuple(hardest.write(out.parent, differences, labelled.items, definition)) if labelled.items else (),
    )
    out.write_text(serde.text(result), encoding="utf-8")
    return {"images": result.images, "remarks": [*_remarks(result.metric, definition, labelled, source)]}


def _remarks(metric: str, model: Model, labelled: LabelledImages, source: Answers) -> list[str]:
    """What the labels leave open for a metric; nothing for a function of the user."""
    if metric not in catalog.METRICS or model.task is not Task.DETECT:
        return []
    return label_checks.class_remarks(model, labelled, source.answers)


def _measure(
    job: Job, inputs: StageInputs, labelled: LabelledImages, evaluator: Evaluator, margin: float
) -> tuple[tuple[MeasuredArtifact, ...], Answers, list[Difference]]:
    """The measure of every artifact, the answers of the source, and the images on which they differ most."""
    device = eager.devices()[-1]
    steps = _steps(job, inputs, device)
    series = _Series(job, inputs, labelled, 1 + sum(not step.absent for step in steps))
    with eager.start(inputs.source().weights, device) as session:
        source = series.answers(session, evaluator, SMALL_BATCHES, None)
    measured, differences = list[MeasuredArtifact](), list[Difference]()
    for step in steps:
        artifact = MeasuredArtifact(
            Stage(step.stage), step.file, step.runner, step.device, step.status, reason=step.reason
        )
        if not step.absent:
            try:
                with step.open() as session:
                    answers = series.answers(session, evaluator, job.options.batch, step)
                differences = hardest.largest(differences, artifact.label, answers, source)
                artifact = replace(artifact, measure=evaluator.measure(answers, source, margin, job.options.seed))
            except MissingBackend as error:
                artifact = replace(artifact, status=Status.UNAVAILABLE, reason=str(error))
        measured.append(artifact)
    return tuple(measured), source, differences


def _steps(job: Job, inputs: StageInputs, device: str) -> list[PlannedComparison]:
    """The artifacts to measure: all of them, and without a metric those in 8 bits, which no tolerance judges."""
    quantised = checks.int8_comparisons(inputs) + checks.fp8_comparisons(inputs)
    if job.options.metric is None:
        return quantised
    steps = checks.graph_comparisons(device, job, inputs) + checks.fp16_comparisons(inputs)
    steps += checks.bf16_comparisons(inputs) + checks.engine_comparisons(inputs)
    return [*(step for step in steps if not step.exact), *quantised]


class _Series:
    """The items, or else the golden cases, which are given to one artifact after the other; tells how many were."""

    def __init__(self, job: Job, inputs: StageInputs, labelled: LabelledImages, artifacts: int) -> None:
        self._job, self._model, self._items = job, inputs.source().definition, labelled.items
        self._golden = {} if labelled.items else inputs.golden().inputs
        cases = len(labelled.items) or len(next(iter(self._golden.values())))
        self._done, self._total = 0, artifacts * cases

    def answers(self, session: Session, evaluator: Evaluator, limits: Range, step: PlannedComparison | None) -> Answers:
        """The answers of a session to all images, in batches within the limits."""
        record = evaluator.record()
        for batch in self._batches():
            inputs = checks.cast_inputs(step, batch.inputs, self._job) if step else batch.inputs
            record.add(replay(session, inputs, limits), batch)
            self._done += len(batch.indices)
            self._job.watch(self._done, self._total)
        return record.finish()

    def _batches(self) -> Iterator[Batch]:
        if self._items:
            return batches.read(self._model, self._items, self._job.options.sizes)
        return batches.of_cases(self._golden, self._model)
