"""Converts the graph to BF16 with explicit casts, and measures the model's noise in BF16 for its tolerance."""

from __future__ import annotations

from pathlib import Path

from deploytool.backends import eager
from deploytool.backends.narrow_floats import BF16
from deploytool.data import golden
from deploytool.data.golden import Arrays, Golden, Noise
from deploytool.errors import StageFailed
from deploytool.exporters import name_scopes
from deploytool.loading import weights_file
from deploytool.loading.source_model import SourceModel
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import noise, noise_floor, rounding, ties
from deploytool.precision import bf16, hazards, heavy_nodes
from deploytool.precision.conversion import Conversion
from deploytool.results.artifact import BF16_NOISE, Kind, Notes, engine_graph
from deploytool.rewrites.graph import storage
from deploytool.spec import AUTO, Job, Precision, Stage

_DEPLOY = f"leave out --precision {Precision.BF16}, or deploy the FP32 graph of the {Stage.REWRITE} stage"


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the BF16 graph, with FP32 inputs and outputs, and beside it the noise and the ties in BF16.

    Nodes that BF16 would make wrong, and those that `keep_fp32` names, stay in FP32. Raises BadInput if a name matches
    no node, StageFailed if the graph cannot be converted or too few heavy nodes are in BF16.
    """
    try:
        conversion = bf16.convert(storage.load(engine_graph(inputs.fp32_graph().path)))
    except Exception as error:  # the version converter and the checker raise errors of any class
        reason = " ".join(str(error).split())
        raise StageFailed(f"the graph cannot be converted to BF16: {reason}", _DEPLOY) from error
    hazardous = hazards.find(conversion)
    kept = hazardous.nodes | _named(job, conversion, inputs)
    narrow = conversion.keeping(kept)
    counts = heavy_nodes.check(narrow, kept, BF16, _DEPLOY)
    storage.save(narrow, out)
    measured, tied, remarks = _noise(inputs.source(), inputs.golden())
    golden.write_bf16(out.with_name(BF16_NOISE), measured, tied)
    return {
        "opset": conversion.opset,
        "heavy_nodes": counts.total,
        "heavy_nodes_bf16": counts.narrow,
        "heavy_nodes_kept": counts.kept,
        "remarks": [*hazardous.lines("BF16"), *remarks],
    }


def _named(job: Job, conversion: Conversion, inputs: StageInputs) -> frozenset[str]:
    """The nodes that the user keeps in FP32 by name; what `auto` finds is for FP16, whose range is smaller."""
    if not job.options.keep_fp32 or job.options.keep_fp32 == (AUTO,):
        return frozenset()
    modules = name_scopes.modules(weights_file.names(inputs.latest(Kind.WEIGHTS).path))
    names = [node.name for node in conversion.single.graph.node]
    return name_scopes.matching_nodes(job.options.keep_fp32, names, modules)


def _noise(source: SourceModel, sample: Golden) -> tuple[Noise, Arrays, tuple[str, ...]]:
    """The noise with that in BF16, the ties of outputs that contain labels, and remarks on runs that failed."""
    module, model = eager.load_module(source.weights), source.definition
    measured = noise.with_bf16(sample.noise, module, model, sample.inputs, sample.reference)
    names = list(dict.fromkeys(each.part.output for each in measured.noise.parts if each.part.labels))
    if not names:
        return measured.noise, {}, measured.remarks
    _, perturbed = noise.perturbed_runs(module, model, rounding.BF16)
    try:
        with eager.start(source.weights, double=True) as double:
            tied = ties.find_in(
                Precision.BF16,
                lambda feeds: double(**feeds),
                perturbed,
                sample.inputs,
                sample.reference,
                names,
                sample.noise.rows,
            )
    except (StageFailed, RuntimeError, TypeError, ValueError) as error:  # raised by the user's code
        reason = " ".join(str(error).split())
        remark = f"the ties in {', '.join(names)} cannot be determined: {reason}"
        return measured.noise, {}, (*measured.remarks, remark)
    return noise_floor.tied_bf16(measured.noise, tied), tied, measured.remarks
