"""Measures what values every tensor takes on calibration data, from which the ranges of INT8 follow."""

from __future__ import annotations

from pathlib import Path

from deploytool.data import calibration, items
from deploytool.loading.stage_inputs import StageInputs
from deploytool.precision.int8 import calibrated_graphs
from deploytool.results.artifact import ENGINE_RANGES, OPENVINO_RANGES, Notes, engine_graph, openvino_graph
from deploytool.spec import Job, Model


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
    if best_there := openvino_graph(graph):
        calibrated_graphs.write(best_there, out.with_name(OPENVINO_RANGES), data)
    return {"cases": len(data.names), "equalised": list(equalised), "remarks": list(remarks)}


def _tests(job: Job, model: Model) -> list[Path]:
    """The pictures that a metric is measured on."""
    if job.options.data is None:
        return []
    found = items.read(Path(job.options.data.path), [tensor.name for tensor in model.inputs])
    return [path for item in found.paths for path in item]
