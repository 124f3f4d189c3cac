"""Makes the INT8 graphs: one for CPUs, and one for engines, which is strongly typed with FP16 outside INT8.

Where OpenVINO is installed, one is made for it, from the form of the FP32 graph that is fastest there in INT8.

A given graph that is quantised already, which has no ranges, stays as it is, and is described as the others are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from deploytool import serde
from deploytool.backends import openvino
from deploytool.data import calibration, golden
from deploytool.data.golden import Arrays, Golden
from deploytool.errors import BadInput, StageFailed
from deploytool.exporters import name_scopes
from deploytool.loading import weights_file
from deploytool.loading.stage_inputs import StageInputs
from deploytool.metrics import decisions, disagreement
from deploytool.parity import int8_answers, quantization
from deploytool.precision import conversion
from deploytool.precision.int8 import (
    auto_keep,
    calibrated_graphs,
    calibration_checks,
    calibration_fault,
    executed,
    macs,
    quantize,
    refusals,
    selection,
    unquantised,
)
from deploytool.precision.int8.calibrated_graphs import CalibratedGraph
from deploytool.precision.int8.placement.fused import Fuses
from deploytool.precision.int8.refusals import Refusal
from deploytool.precision.int8.selection import Selected
from deploytool.results.artifact import (
    ANSWERS,
    ENGINE_GRAPH,
    ENGINE_RANGES,
    LIMITS,
    OPENVINO_GRAPH,
    OPENVINO_RANGES,
    Kind,
    Notes,
    engine_graph,
    openvino_graph,
)
from deploytool.results.int8 import AS_GIVEN, OWN_RANGES, Int8, Int8Graph
from deploytool.results.int8_forms import Form, cpu_form
from deploytool.results.report import Limits
from deploytool.rewrites.graph import storage
from deploytool.spec import AUTO, Job, Precision, Stage

_CASES = 128  # calibration cases in memory: those on which layers to keep are judged
_COMPARED = 32  # of them, those on which ways to calibrate are compared


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the INT8 graph for CPUs, beside it those for engines and for OpenVINO, and what each answers as quantised.

    Without ranges it is the given graph alone.

    Raises BadInput if a name of `keep` matches no node, StageFailed if a graph has nothing that can run in INT8, or if
    the search for layers to keep finds no set.
    """
    graph = inputs.fp32_graph().path
    if not inputs.chain(Kind.RANGES):
        return _as_given(graph, out, inputs)
    ranges, cases, form = inputs.latest(Kind.RANGES), _cases(job, inputs), cpu_form()
    own = calibrated_graphs.read(graph, ranges.path)
    kept, searched = _kept(job, inputs, own, cases)
    names = tuple(name_scopes.shortest_names(kept, *_names(own[0].graph, inputs)))
    remarks = [*serde.decode(tuple[str, ...], ranges.notes["remarks"]), *searched]
    for_cpu = selection.best(own, form, kept, cases[:_COMPARED])
    made = {out.name: (form, Fuses.CLIPPING, for_cpu)}
    for file, bases, other, fuses in _variants(graph, ranges.path, own):
        same = {name: _nodes_named(name, bases[0].graph, inputs) for name in names}
        best = selection.best(bases, other, kept.union(*same.values()), cases[:_COMPARED], fuses)
        made[file] = (other, fuses, best)
        remarks += [f"{file} has no layer {name} to keep out of INT8" for name, nodes in same.items() if not nodes]
    for file, (*_, selected) in made.items():
        storage.save(selected.graph, out.with_name(file))
    limits, unproved = _answers_as_quantised(out, made, inputs.golden())
    result = Int8(
        cases=serde.decode(int, ranges.notes["cases"]),
        graphs=tuple(_described(out.with_name(file), *each) for file, each in made.items()),
        kept=names,
        noisiest=quantization.noisiest(for_cpu.base.graph, for_cpu.graph, inputs.golden().inputs),
    )
    remarks += [*_findings(for_cpu, cases[:_COMPARED], inputs), *unproved]
    return {"int8": serde.encode(result), LIMITS: serde.encode(limits), "remarks": remarks}


def _variants(
    graph: Path, ranges: Path, own: list[CalibratedGraph]
) -> Iterator[tuple[str, list[CalibratedGraph], Form, Fuses]]:
    """The INT8 graphs beside the one for CPUs: file, the FP32 graph that each is made from, form, and what is fused."""
    engine = engine_graph(graph)
    bases = own if engine == graph else calibrated_graphs.read(engine, ranges.with_name(ENGINE_RANGES))
    yield ENGINE_GRAPH, bases, Form.TENSORRT, Fuses.CLIPPING
    if openvino.is_installed():
        best = openvino_graph(ranges)
        bases = calibrated_graphs.read(best, ranges.with_name(OPENVINO_RANGES)) if best else own
        yield OPENVINO_GRAPH, bases, cpu_form(), Fuses.ACTIVATIONS


def _nodes_named(name: str, graph: onnx.ModelProto, inputs: StageInputs) -> frozenset[str]:
    """The nodes of another form of the graph that have this name or are in the module of this name, if any."""
    try:
        return name_scopes.matching_nodes([name], *_names(graph, inputs))
    except BadInput:
        return frozenset()


def _answers_as_quantised(out: Path, files: Iterable[str], sample: Golden) -> tuple[dict[str, Limits], list[str]]:
    """Writes what each graph answers to the golden cases; how far kernels may be from it by file, and remarks.

    A graph that cannot be emulated has no answers: no device could prove it, and no bundle has it.
    """
    limits, remarks = dict[str, Limits](), list[str]()
    for graph in map(out.with_name, files):
        loaded = storage.load(graph)
        try:
            answers = int8_answers.record(loaded, sample.inputs)
            limits[graph.name] = int8_answers.limits(loaded, answers, sample)
        except StageFailed as error:
            remarks.append(f"{graph.name} cannot be run as quantised, so no bundle has it: {error}")
            continue
        golden.write_answers(out.with_name(ANSWERS[graph.name]), answers)
    return limits, remarks


def _as_given(graph: Path, out: Path, inputs: StageInputs) -> Notes:
    """Copies a graph that came with Q/DQ nodes, and compares it with the FP32 graph behind them on the golden cases."""
    given, sample = storage.load(graph), inputs.golden().inputs
    base = unquantised.strip(given)
    names = selection.compared(base)
    error = selection.error(selection.results(given, [sample], names), selection.results(base, [sample], names))
    storage.save(given, out)
    allowed = quantize.candidates(base, cpu_form())
    share = macs.share(macs.count(base), macs.in_graph(given), allowed)
    refused = refusals.refusals(given)
    if not share.int8:
        raise _nothing_given(refused)
    described = Int8Graph(out.name, AS_GIVEN, OWN_RANGES, False, False, error, share.of_allowed, share.of_all)
    described = replace(described, in_kernels=_in_kernels(out, allowed, base, given))
    remarks = [f"TensorRT does not take the graph: {refused[0].sentence}"] if refused else []
    result = Int8(cases=0, graphs=(described,), noisiest=quantization.noisiest(base, given, sample))
    return {"int8": serde.encode(result), "remarks": remarks}


def _nothing_given(refused: Sequence[Refusal]) -> StageFailed:
    """The error for a given graph without a product of two dequantised values, which alone can be judged."""
    integer = next((each for each in refused if each.form is refusals.Form.INTEGER_OPERATOR), None)
    if integer is None:
        problem = "no convolution or product of the given graph has Q/DQ nodes at its input and its weights"
        return StageFailed(problem, f"leave out --precision {Precision.INT8}: nothing of the graph is INT8")
    problem = (
        f"the given graph is quantised with integer operators, such as {integer.operator}, and not with Q/DQ nodes"
    )
    return StageFailed(
        problem, "quantise it again in the form QDQ, such as quantize_static(quant_format=QuantFormat.QDQ)"
    )


def _findings(chosen: Selected, cases: Sequence[Arrays], inputs: StageInputs) -> list[str]:
    """What is wrong with the calibration, if anything is."""
    joined = {name: np.concatenate([case[name] for case in cases]) for name in cases[0]}
    base, method = chosen.base, chosen.trial.method
    found = calibration_checks.find(base.graph, chosen.graph, base.table, method, joined, inputs.golden())
    return calibration_fault.lines(found)


def _kept(
    job: Job, inputs: StageInputs, found: Sequence[CalibratedGraph], cases: Sequence[Arrays]
) -> tuple[frozenset[str], list[str]]:
    """The nodes to keep out of INT8, as stated or as the search finds them, and a remark on the search."""
    keep = job.options.keep
    if keep != (AUTO,):
        return name_scopes.matching_nodes(keep, *_names(found[0].graph, inputs)) if keep else frozenset(), []
    differ = disagreement.on(cases, inputs.source().definition)
    kept, evaluations = auto_keep.search(found, cpu_form(), cases, _COMPARED, differ, decisions.MARGIN)
    names = name_scopes.shortest_names(kept, *_names(found[0].graph, inputs))
    return kept, [auto_keep.remark(names, evaluations, len(cases), Precision.INT8)]


def _names(graph: onnx.ModelProto, inputs: StageInputs) -> tuple[list[str], frozenset[str]]:
    """The names of the nodes of a graph, and of the modules of the source model."""
    modules = name_scopes.modules(weights_file.names(inputs.latest(Kind.WEIGHTS).path))
    return [node.name for node in conversion.with_names(graph).graph.node], modules


def _cases(job: Job, inputs: StageInputs) -> list[Arrays]:
    """The first calibration cases."""
    assert job.options.calibration is not None
    path, model = Path(job.options.calibration.path), inputs.source().definition
    return calibration.first_cases(calibration.read(path, model, job.options.sizes, seed=job.options.seed), _CASES)


def _in_kernels(
    path: Path, allowed: Sequence[str], base: onnx.ModelProto, quantized: onnx.ModelProto
) -> dict[str, float]:
    """The share of what may be INT8 that each runtime that gets the graph runs by INT8 kernels on this machine."""
    run = dict[str, frozenset[str]]()
    if path.name == Kind.INT8_GRAPH.value:
        run["ONNX Runtime"] = executed.in_onnxruntime(executed.onnxruntime_graph(quantized))
    if openvino.is_installed() and path == (openvino_graph(path) or path):
        run["OpenVINO"] = executed.in_openvino(openvino.runtime_model(path))
    counts = macs.count(base)
    return {name: macs.share(counts, nodes, allowed).of_allowed for name, nodes in run.items()}


def _described(path: Path, form: Form, fuses: Fuses, chosen: Selected) -> Int8Graph:
    """What is known of the INT8 graph in a file; raises StageFailed if nothing of it is INT8."""
    base, trial = chosen.base.graph, chosen.trial
    allowed = quantize.candidates(base, form, fuses)
    run = _in_kernels(path, allowed, base, chosen.graph)
    share = macs.share(macs.count(base), macs.in_graph(chosen.graph), allowed)
    if not share.int8:
        raise StageFailed("no convolution or product is INT8", f"leave --keep out, or deploy the {Stage.FP16} graph")
    how = trial.method, trial.equalised, trial.corrected, trial.error
    return Int8Graph(path.name, form, *how, share.of_allowed, share.of_all, run)
