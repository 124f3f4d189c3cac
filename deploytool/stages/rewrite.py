"""Rewrites the graph: makes several candidate forms, checks them against the original and keeps the fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import onnx

from deploytool import serde
from deploytool.backends import onnxruntime, openvino, tensorrt_estimate
from deploytool.backends.session import Session, load_backend
from deploytool.backends.tensorrt_estimate import BuildEstimate
from deploytool.benchmark import choice, form_timing
from deploytool.benchmark.form_timing import Trials
from deploytool.data.golden import Arrays, Golden
from deploytool.errors import MissingBackend, ParityFailed, StageFailed
from deploytool.host import disk
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import metrics
from deploytool.parity.replay import SMALL_BATCHES, replay
from deploytool.precision import fp16
from deploytool.results import verdict
from deploytool.results.artifact import ENGINE_GRAPH, OPENVINO_GRAPH, Kind, Notes
from deploytool.rewrites import forms as rewrites_forms
from deploytool.rewrites.forms import Candidate
from deploytool.rewrites.graph import storage, weights
from deploytool.rewrites.recipes import ORIGINAL, RECIPES
from deploytool.spec import AUTO, BATCH, Job, Stage
from deploytool.targets import FLAVOURS, TENSORRT_RTX

_MAX_GROWTH = 1.5  # of the weights: beyond it, reading them costs an engine more than fewer launches save
_LARGE = "original: forms of a graph beyond 2 GB are not timed, because they would all be in memory at once"
_MAX_REASON = 200  # characters of an error message of a library


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the chosen form of the graph; the original unless another form is significantly faster.

    Where engines are faster with another form, writes that one too, as `ENGINE_GRAPH`, and as `OPENVINO_GRAPH` one that
    OpenVINO is faster with. A form that fails the check is left out with a remark. Raises ParityFailed if it was
    requested by name.
    """
    before = inputs.latest(Kind.GRAPH).path
    requested, sample = job.options.rewrite, inputs.golden()
    graph = storage.load(before)
    large = requested == AUTO and weights.is_large(graph)
    recipes = {ORIGINAL: (), **({} if large else RECIPES if requested == AUTO else {requested: RECIPES[requested]})}
    forms, impossible = _candidates(graph, recipes)
    files = {form.name: _write(form, before, out) for form in forms}
    with ExitStack() as stack:
        sessions, invalid = _open(stack, job.options.runner, files)
        errors, failed = _check(sessions, sample, before, job)
        failed = [*impossible, *invalid, *failed]
        correct = {name: sessions[name] for name in errors}
        trials, how = _measure(stack, correct, files, sample.inputs, job)
        if failed and requested != AUTO and not job.options.rewrite_implied:
            raise ParityFailed(f"--rewrite {requested}: {failed[0]}", "leave --rewrite out, and report the graph")
        passing = [form for form in forms if form.name in errors]
        fastest = choice.choose(form_timing.by_form(trials), ORIGINAL)
        chosen = passing[-1] if requested != AUTO else _form(forms, fastest)
        for_openvino, openvino_remarks = _for_openvino(stack, passing, correct, files, sample, chosen, job)
    engine, engine_remarks = (chosen, []) if requested != AUTO else _for_engine(passing, job)
    _keep(files, before, {out.name: chosen, OPENVINO_GRAPH: for_openvino, ENGINE_GRAPH: engine}, out)
    return {
        "chosen": chosen.name,
        "for_engine": engine.name,
        "for_openvino": for_openvino.name,
        "max_error": errors[chosen.name],
        "nodes": chosen.nodes,
        "nodes_before": forms[0].nodes,
        "candidates": [_facts(form, errors, trials) for form in forms],
        "rewrites": serde.encode(_outcomes(forms)),
        "remarks": [
            _LARGE if large else _remark(chosen, job, trials, how, failed=bool(failed)),
            *engine_remarks,
            *openvino_remarks,
            *failed,
        ],
    }


def _keep(files: Mapping[str, Path], before: Path, kept: Mapping[str, Candidate], out: Path) -> None:
    """Writes the forms under their file names beside `out`, each once, and removes the files of all forms."""
    for name, form in kept.items():
        if name == out.name or form is not kept[out.name]:
            storage.copy(files[form.name], out.with_name(name))
    for file in files.values():
        if file != before:
            storage.remove(file)


def _candidates(model: onnx.ModelProto, recipes: Mapping[str, Sequence[str]]) -> tuple[list[Candidate], list[str]]:
    """The forms of the graph, the original first, and a line for each recipe that raises on this graph."""
    try:
        return rewrites_forms.candidates(model, recipes), []
    except Exception:  # a rewrite that fails on an unusual graph must not affect the other recipes
        errors = {name: _rewrite_error(model, recipe) for name, recipe in recipes.items()}
    possible = {name: recipe for name, recipe in recipes.items() if not errors[name]}
    return rewrites_forms.candidates(model, possible), [
        f"{name} cannot be applied: {error}" for name, error in errors.items() if error
    ]


def _rewrite_error(model: onnx.ModelProto, recipe: Sequence[str]) -> str:
    """The class and message of the error that a recipe raises on this graph; empty if it raises none."""
    try:
        rewrites_forms.rewrite(model, recipe)
    except Exception as error:  # an error of ours, not of the user
        return f"{type(error).__name__} {error}"[:_MAX_REASON].strip()
    return ""


def _write(form: Candidate, before: Path, out: Path) -> Path:
    """Writes a form beside `out` and returns its file; that of the original exists already."""
    if form.name == ORIGINAL:
        return before
    file = out.with_name(f"{form.name}.onnx")
    storage.save(form.model, file)
    return file


def _open(stack: ExitStack, runner: str, files: Mapping[str, Path]) -> tuple[dict[str, Session], list[str]]:
    """A session of every form that is a valid graph, and a line for each that is not.

    Raises StageFailed if the original cannot be opened.
    """
    sessions = {name: _session(stack, runner, file) for name, file in files.items()}
    invalid = [f"{name} is not a valid graph: {error}" for name, error in sessions.items() if isinstance(error, str)]
    if isinstance(error := sessions[ORIGINAL], str):
        raise StageFailed(f"the simplified graph cannot be opened: {error}", f"see the {Stage.SIMPLIFY} stage")
    return {name: session for name, session in sessions.items() if not isinstance(session, str)}, invalid


def _session(stack: ExitStack, runner: str, file: Path) -> Session | str:
    """A session of a file, or the error if it is not a valid graph."""
    try:
        weights.check(storage.load(file))
        return stack.enter_context(load_backend(runner).start(file))
    except (StageFailed, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return " ".join(str(error).split())[:_MAX_REASON]


def _form(forms: Sequence[Candidate], name: str) -> Candidate:
    return next(form for form in forms if form.name == name)


def _for_engine(forms: Sequence[Candidate], job: Job) -> tuple[Candidate, list[str]]:
    """The form for FP16 and engines, and remarks with the reason.

    On a GPU the number of kernel launches dominates, so the form with the fewest nodes is chosen, unless its weights
    are much larger. If engines are to be built, the form is kept only if a trial build with TensorRT-RTX is lighter.
    """
    original = forms[0]
    light = [form for form in forms if form.weights <= _MAX_GROWTH * original.weights]
    best = min(light, key=lambda form: form.nodes)
    if best is original:
        return original, []
    if weights.is_large(best.model):
        return best, [f"FP16 and engines use {best.name}, without an estimate: the graph is beyond 2 GB"]
    if not job.options.targets or not FLAVOURS[TENSORRT_RTX].version:
        return best, [f"FP16 and engines use {best.name}: {best.nodes} nodes instead of {original.nodes} (estimated)"]
    free = {**job.options.sizes, BATCH: job.options.batch}
    try:
        old, new = (tensorrt_estimate.estimate(_fp16(form.model), job.model.inputs, free) for form in (original, best))
    except (MissingBackend, StageFailed) as error:
        return best, [f"FP16 and engines use {best.name}, without an estimate: {error}"]
    figures = (
        f"{new.kernels} kernels instead of {old.kernels}, {new.syncs} syncs instead of {old.syncs}, "
        f"{disk.size(new.traffic)} of tensors instead of {disk.size(old.traffic)}, "
        f"an engine of {disk.size(new.size)} instead of {disk.size(old.size)}"
    )
    source = "(estimated from TensorRT-RTX's build log)"
    if _is_lighter(new, old):
        return best, [f"FP16 and engines use {best.name}: it has {figures} {source}"]
    return original, [f"FP16 and engines use the original graph: {best.name} has {figures} {source}"]


def _fp16(graph: onnx.ModelProto) -> bytes:
    """The graph in FP16, serialized; raises StageFailed if it cannot be converted."""
    try:
        half = fp16.convert(graph, keep_io=True, check=False).half
    except Exception as error:  # the exceptions of onnx have no common base class
        raise StageFailed(f"the graph cannot be converted to FP16: {error}", f"see the {Stage.FP16} stage") from error
    return bytes(half.SerializeToString())


def _is_lighter(new: BuildEstimate, old: BuildEstimate) -> bool:
    """Whether an engine launches less, without being much larger."""
    return new.kernels + new.syncs < old.kernels + old.syncs and new.size <= _MAX_GROWTH * old.size


def _check(
    sessions: Mapping[str, Session], sample: Golden, before: Path, job: Job
) -> tuple[dict[str, float], list[str]]:
    """The error of every form that is equivalent to the original, and a line for each that is not.

    A form that deviates from the original still passes if it is closer to the FP64 reference.
    """
    expected = replay(sessions[ORIGINAL], sample.inputs, SMALL_BATCHES)
    results = {name: _run(session, sample.inputs) for name, session in sessions.items() if name != ORIGINAL}
    answers = {ORIGINAL: expected, **{name: arrays for name, arrays in results.items() if not isinstance(arrays, str)}}
    failed = [f"{name} does not run: {error}" for name, error in results.items() if isinstance(error, str)]
    tolerance = metrics.tolerances(sample.noise, job.options.tolerance).fp32
    errors = {}
    for name, arrays in answers.items():
        check = metrics.check(arrays, expected, before.parent.name, tolerance, sample.ties32)
        if check.broken and metrics.deviates(arrays, expected, sample, tolerance):
            failed.append(f"{name} deviates from the original: {verdict.describe_failure(check)}")
        else:
            errors[name] = check.parity.max_error
    return errors, failed


def _run(session: Session, inputs: Arrays) -> Arrays | str:
    """The answers of a form, or the error if it does not run."""
    try:
        return replay(session, inputs, SMALL_BATCHES)
    except StageFailed as error:
        return " ".join(str(error).split())[:_MAX_REASON]


def _measure(
    stack: ExitStack, sessions: Mapping[str, Session], files: Mapping[str, Path], inputs: Arrays, job: Job
) -> tuple[Trials, str]:
    """The speedups of all forms if the form is to be chosen and runs on ONNX Runtime, and how they were measured."""
    if job.options.rewrite != AUTO or job.options.runner != "onnxruntime":
        return {}, "measured"
    trials, busy = form_timing.measure(sessions, inputs, job.options.batch)
    if not busy:
        return trials, "measured"
    single = {name: stack.enter_context(onnxruntime.start(files[name], threads=1)) for name in sessions}
    trials, _ = form_timing.measure(single, inputs, job.options.batch, single=True)
    return trials, f"measured in CPU time on one thread: {busy}"


def _for_openvino(
    stack: ExitStack,
    forms: Sequence[Candidate],
    correct: Mapping[str, Session],
    files: Mapping[str, Path],
    sample: Golden,
    chosen: Candidate,
    job: Job,
) -> tuple[Candidate, list[str]]:
    """The form for OpenVINO, timed in OpenVINO where it is installed, and a remark if it is not the chosen one.

    Another form is worth a file of its own only if it is faster beyond noise and OpenVINO's outputs with it are right.
    """
    wanted = job.options.rewrite == AUTO and job.options.runner == "onnxruntime"
    if not wanted or len(forms) < 2 or not openvino.is_installed():
        return chosen, []
    if forms[0].weights > form_timing.MAX_WEIGHTS:
        return chosen, [f"forms are not timed in OpenVINO: it has more than {form_timing.MAX_WEIGHTS:,} weights"]
    graphs = {form.name: files[form.name] for form in forms}
    try:
        sessions, trials = form_timing.in_openvino(stack, graphs, sample.inputs, job.options.batch)
    except (MissingBackend, StageFailed) as error:
        return chosen, [f"forms are not timed in OpenVINO: {error}"]
    best = _form(forms, choice.choose(form_timing.by_form(trials), ORIGINAL))
    gain = form_timing.relative(trials, best.name, chosen.name)
    if best is chosen or gain < 1 / choice.MIN_RATIO:
        return chosen, []
    name = f"{best.name} in OpenVINO"
    errors, failed = _check({ORIGINAL: correct[ORIGINAL], name: sessions[best.name]}, sample, files[ORIGINAL], job)
    if name not in errors:
        return chosen, failed
    return best, [f"OpenVINO uses {best.name}: {gain:.2f}× the speed of {chosen.name} there"]


def _facts(form: Candidate, errors: Mapping[str, float], trials: Trials) -> dict[str, serde.Json]:
    """One candidate as an entry of the receipt."""
    timed = {str(batch): serde.encode(ratio) for batch, ratio in trials.get(form.name, {}).items()}
    size = {"nodes": form.nodes, "weights": form.weights}
    return {"names": list(form.names), **size, "max_error": errors.get(form.name), "faster_than_original": timed}


def _outcomes(forms: Sequence[Candidate]) -> dict[str, rewrites_forms.Outcome]:
    """The outcome of every rewrite: in the first form to which it applied, else in the last that tried it."""
    outcomes: dict[str, rewrites_forms.Outcome] = {}
    for form in forms:
        for name, outcome in form.outcomes.items():
            if name not in outcomes or not outcomes[name].applied:
                outcomes[name] = outcome
    return outcomes


def _remark(chosen: Candidate, job: Job, trials: Trials, how: str, *, failed: bool) -> str:
    """The chosen form, the alternatives and the reason for the choice."""
    requested, implied = job.options.rewrite, job.options.rewrite_implied
    if requested != AUTO and failed:
        return f"original: {requested} failed"
    if requested == chosen.name:
        return f"{chosen.name}, as {'--quick implies' if implied else 'requested'}"
    if requested != AUTO:
        return f"original: no rewrite of {requested} applies"
    others = ", ".join(name for name in trials if name != chosen.name)
    if not others:
        return "original: no rewrite applies" if trials else "original: other forms are timed with ONNX Runtime only"
    if chosen.name == ORIGINAL:
        return f"original: none of {others} is significantly faster ({how})"
    gains = [
        f"{ratio.value:.2f}× ({ratio.low:.2f}–{ratio.high:.2f}) the original graph's speed at batch {batch}"
        for batch, ratio in trials[chosen.name].items()
    ]
    return f"{chosen.name}, compared with {others}: {', '.join(gains)} ({how})"
