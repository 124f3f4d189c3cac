"""Measures what values every tensor takes on calibration data, from which the ranges of INT8 follow."""

from __future__ import annotations

from pathlib import Path

from deploytool import serde
from deploytool.backends import openvino
from deploytool.benchmark import form_timing, int8_form
from deploytool.data import calibration, items
from deploytool.errors import MissingBackend, StageFailed
from deploytool.loading.stage_inputs import StageInputs
from deploytool.precision.int8 import calibrated_graphs
from deploytool.results.artifact import (
    ENGINE_RANGES,
    OPENVINO_GRAPH,
    OPENVINO_RANGES,
    Artifact,
    Kind,
    Notes,
    engine_graph,
    openvino_graph,
)
from deploytool.rewrites.graph import storage
from deploytool.spec import AUTO, Job, Model


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the table of values of the FP32 graph, and beside it those of the graphs for engines and for OpenVINO.

    These have tables of their own only if they are other graphs.

    Raises BadInput for calibration data that cannot be used, or that a check is made on too.
    """
    options = job.options
    assert options.calibration is not None
    path = Path(options.calibration.path)
    data = calibration.read(path, inputs.source().definition, options.sizes, seed=options.seed)
    remarks = calibration.check(path, data, inputs.golden(), _tests(job, inputs.source().definition))
    graph = inputs.fp32_graph().path
    equalised = calibrated_graphs.write(graph, out, data)
    if (engine := engine_graph(graph)) != graph:
        calibrated_graphs.write(engine, out.with_name(ENGINE_RANGES), data)
    for_openvino, why = _for_openvino(job, out.with_name(OPENVINO_GRAPH), inputs)
    if for_openvino:
        calibrated_graphs.write(for_openvino, out.with_name(OPENVINO_RANGES), data)
    return {"cases": len(data.names), "equalised": list(equalised), "remarks": [*remarks, *why]}


def _for_openvino(job: Job, out: Path, inputs: StageInputs) -> tuple[Path | None, list[str]]:
    """Writes the form that is fastest in OpenVINO in INT8, and why; nothing if that is the graph of the run.

    Where forms are not chosen or cannot be timed, it is the one that is fastest there in FP32.
    """
    if not openvino.is_installed():
        return None, []
    graph, why = inputs.fp32_graph(), list[str]()
    names = _timed(graph) if job.options.rewrite == AUTO else []
    if len(names) > 1:
        before = next(each for each in reversed(inputs.chain(Kind.GRAPH)) if each is not graph)
        try:
            best = int8_form.fastest(storage.load(before.path), names, inputs.golden().inputs, job.options.batch)
        except (MissingBackend, StageFailed) as error:
            why.append(f"forms are not timed in INT8 in OpenVINO: {error}")
        else:
            if best.name == graph.notes["chosen"]:
                return None, []
            storage.save(best.model, out)
            return out, [f"OpenVINO's INT8 graph is made from the form {best.name}, the fastest there"]
    if own := openvino_graph(graph.path):
        storage.copy(own, out)
    return out if own else None, why


def _timed(graph: Artifact) -> list[str]:
    """The forms of a graph that passed the check of the rewrite stage; none if one is too large to time."""
    tried = serde.decode(tuple[dict[str, serde.Json], ...], graph.notes.get("candidates", ()))
    if any(serde.decode(int, form["weights"]) > form_timing.MAX_WEIGHTS for form in tried):
        return []
    return [serde.decode(tuple[str, ...], form["names"])[0] for form in tried if form["max_error"] is not None]


def _tests(job: Job, model: Model) -> list[Path]:
    """The pictures that a metric is measured on."""
    if job.options.data is None:
        return []
    found = items.read(Path(job.options.data.path), [tensor.name for tensor in model.inputs])
    return [path for item in found.paths for path in item]
