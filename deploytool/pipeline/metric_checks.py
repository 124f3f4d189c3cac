"""Checks the task, the labels and the pictures of an export as soon as the source has answered the golden inputs."""

from __future__ import annotations

from deploytool.data import batches, golden
from deploytool.data.labels import read as data_labels
from deploytool.loading import output_task
from deploytool.metrics import catalog, label_checks
from deploytool.results.artifact import Artifact
from deploytool.spec import Job
from deploytool.tasks import fit


def check(job: Job, sample: Artifact) -> None:
    """Raises BadInput for what the stages after the golden data could not use, which would cost minutes.

    These are outputs that are not those of the task, labels that do not fit the outputs, and pictures that cannot be
    read or have a size that the model refuses. `sample` is the golden data; `job.model` is the settled definition.
    """
    options, model = job.options, job.model
    if options.calibration and options.metric is None:
        output_task.decides(model)
    ready = options.metric is None or options.metric.path in catalog.METRICS
    decoded = ready and model.task in fit.DECODED  # a function of the user may understand other outputs
    if options.metric is None and not decoded:
        return
    outputs = golden.outputs(sample.path)
    if decoded and model.task:
        fit.check(model.task, outputs)
    if options.metric is None or options.data is None:
        return
    labelled = data_labels.of_run(options, model)
    if ready:
        label_checks.check(options.metric.path, model, labelled, outputs)
    done = 0
    for batch in batches.read(model, labelled.items, options.sizes):
        done += len(batch.indices)
        job.watch(done, len(labelled.items))
