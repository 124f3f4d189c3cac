"""Makes the FP8 graph, for engines: E4M3 in convolutions and products, FP16 elsewhere, strongly typed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from deploytool import serde
from deploytool.backends import fp8_emulation
from deploytool.data import calibration, golden
from deploytool.data.golden import Arrays, Golden
from deploytool.errors import StageFailed
from deploytool.exporters import name_scopes
from deploytool.loading import weights_file
from deploytool.loading.stage_inputs import StageInputs
from deploytool.metrics import decisions, disagreement
from deploytool.parity import fp8_answers, quantization
from deploytool.precision import conversion
from deploytool.precision.int8 import (
    auto_keep,
    calibrated_graphs,
    calibration_checks,
    calibration_fault,
    macs,
    quantize,
    selection,
)
from deploytool.precision.int8.calibrated_graphs import CalibratedGraph
from deploytool.precision.int8.macs import Int8Share
from deploytool.precision.int8.selection import Selected
from deploytool.results.artifact import ANSWERS, ENGINE_RANGES, LIMITS, Kind, Notes, engine_graph
from deploytool.results.fp8 import Fp8
from deploytool.results.int8_forms import Form
from deploytool.results.report import Limits
from deploytool.rewrites.graph import storage
from deploytool.spec import AUTO, Job, Precision, Stage

_CASES = 128  # calibration cases in memory: those on which layers to keep are judged
_COMPARED = 32  # of them, those on which ways to calibrate are compared


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the FP8 graph, made from the form of the graph for engines, and what it answers as quantised.

    Raises BadInput if a name of `keep` matches no node, StageFailed if the graph has nothing that can run in FP8 or
    cannot be converted, or if the search for layers to keep finds no set.
    """
    graph, ranges = inputs.fp32_graph().path, inputs.latest(Kind.RANGES)
    source = engine_graph(graph)
    table = ranges.path if source == graph else ranges.path.with_name(ENGINE_RANGES)
    bases, cases = calibrated_graphs.read(source, table), _cases(job, inputs)
    kept, names, searched = _kept(job, inputs, bases, cases)
    cases = cases[:_COMPARED]
    chosen = selection.best(bases, Form.E4M3, kept, cases)
    storage.save(chosen.graph, out)
    share, sample = _share(chosen), inputs.golden()
    result = Fp8(
        file=out.name,
        cases=serde.decode(int, ranges.notes["cases"]),
        equalised=chosen.trial.equalised,
        corrected=chosen.trial.corrected,
        error=chosen.trial.error,
        of_allowed=share.of_allowed,
        of_all=share.of_all,
        kept=names,
        noisiest=quantization.noisiest(chosen.base.graph, chosen.graph, sample.inputs, fp8_emulation.emulate),
    )
    joined = {name: np.concatenate([case[name] for case in cases]) for name in cases[0]}
    faults = calibration_checks.of_data(chosen.base.graph, chosen.base.table, joined, sample)
    remarks = [*serde.decode(tuple[str, ...], ranges.notes["remarks"]), *searched, *calibration_fault.lines(faults)]
    limits, unproved = _answers_as_quantised(out, chosen.graph, sample)
    return {"fp8": serde.encode(result), LIMITS: serde.encode(limits), "remarks": [*remarks, *unproved]}


def _answers_as_quantised(out: Path, graph: onnx.ModelProto, sample: Golden) -> tuple[dict[str, Limits], list[str]]:
    """Writes what the graph answers to the golden cases; how far kernels may be from it by file, and remarks.

    A graph that cannot be emulated has no answers: no device could prove it, and no bundle has it.
    """
    try:
        answers = fp8_answers.record(graph, sample.inputs)
        limits = fp8_answers.limits(graph, answers, sample)
    except StageFailed as error:
        return {}, [f"{out.name} cannot be run as quantised, so no bundle has it: {error}"]
    golden.write_answers(out.with_name(ANSWERS[out.name]), answers)
    return {out.name: limits}, []


def _kept(
    job: Job, inputs: StageInputs, bases: Sequence[CalibratedGraph], cases: Sequence[Arrays]
) -> tuple[frozenset[str], tuple[str, ...], list[str]]:
    """The nodes to keep out of FP8, as stated or as the search finds them, their names, and a remark on the search."""
    modules = name_scopes.modules(weights_file.names(inputs.latest(Kind.WEIGHTS).path))
    nodes, keep = [node.name for node in conversion.with_names(bases[0].graph).graph.node], job.options.keep
    if keep != (AUTO,):
        kept = name_scopes.matching_nodes(keep, nodes, modules) if keep else frozenset[str]()
        return kept, tuple(name_scopes.shortest_names(kept, nodes, modules)), []
    differ = disagreement.on(cases, inputs.source().definition)
    kept, evaluations = auto_keep.search(bases, Form.E4M3, cases, _COMPARED, differ, decisions.MARGIN)
    names = tuple(name_scopes.shortest_names(kept, nodes, modules))
    return kept, names, [auto_keep.remark(names, evaluations, len(cases), Precision.FP8)]


def _cases(job: Job, inputs: StageInputs) -> list[Arrays]:
    options = job.options
    assert options.calibration is not None
    definition = inputs.source().definition
    data = calibration.read(Path(options.calibration.path), definition, options.sizes, seed=options.seed)
    return calibration.first_cases(data, _CASES)


def _share(chosen: Selected) -> Int8Share:
    """What of the multiply-accumulates is FP8; raises StageFailed if none is."""
    base = chosen.base.graph
    share = macs.share(macs.count(base), macs.in_graph(chosen.graph), quantize.candidates(base, Form.E4M3))
    if not share.int8:
        raise StageFailed("no convolution or product is FP8", f"leave --keep out, or deploy the {Stage.FP16} graph")
    return share
