"""Rewrites the graph into the form that runs fastest, of a few that are proved equal and timed against each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from deploytool import serde
from deploytool.backends import onnxruntime, tensorrt_estimate
from deploytool.backends.session import Session, load_backend
from deploytool.backends.tensorrt_estimate import BuildEstimate
from deploytool.benchmark import choice, comparison, machine_state
from deploytool.benchmark import ratio as benchmark_ratio
from deploytool.benchmark.interleave import Milliseconds
from deploytool.benchmark.ratio import Ratio
from deploytool.data.golden import Arrays, Golden
from deploytool.errors import MissingBackend, ParityFailed, StageFailed
from deploytool.host import disk
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import metrics
from deploytool.parity.replay import SMALL_BATCHES, replay
from deploytool.precision import fp16
from deploytool.results import verdict
from deploytool.results.artifact import ENGINE_GRAPH, Kind, Notes
from deploytool.rewrites import forms as rewrites_forms
from deploytool.rewrites.forms import Candidate
from deploytool.rewrites.recipes import ORIGINAL, RECIPES
from deploytool.spec import AUTO, BATCH, Job, Stage
from deploytool.targets import FLAVOURS, TENSORRT_RTX

_SECONDS = 0.5  # of timing for each batch
_CONTENDERS = 3  # forms that are timed at the larger batch, the original aside
_PATIENCE = 8.0  # seconds: where the larger batch would take longer, the smaller one decides alone
_HEAVIEST = 1.5  # times as many weights: more cost an engine more than fewer launches save
_LONGEST = 200  # characters of what another's code says

Trials = dict[str, dict[int, Ratio]]  # form: batch: how many times faster than the original


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the chosen form of the graph, the graph itself if no other is surely faster.

    A form that strays is left out with a remark. Raises ParityFailed if it is the one that was asked for by name.
    """
    before = inputs.latest(Kind.GRAPH).path
    asked, sample = job.options.rewrite, inputs.golden()
    wanted = RECIPES if asked == AUTO else {ORIGINAL: (), asked: RECIPES[asked]}
    forms, unmade = _forms_of(onnx.load(before), wanted)
    files = {form.name: _written(form, before, out) for form in forms}
    trials: Trials = {}
    how = "measured"
    with ExitStack() as stack:
        sessions, refused = _opened(stack, job.options.runner, files)
        errors, failed = _proved(sessions, sample, before, job)
        failed = [*unmade, *refused, *failed]
        if asked == AUTO and job.options.runner == "onnxruntime":
            trials, busy = _timed({name: sessions[name] for name in errors}, sample.inputs, job)
            if busy:
                single = {name: stack.enter_context(onnxruntime.start(files[name], threads=1)) for name in errors}
                trials, _ = _timed(single, sample.inputs, job, single=True)
                how = f"measured by processor time, on one thread: {busy}"
    if failed and asked != AUTO and not job.options.rewrite_implied:
        raise ParityFailed(f"--rewrite {asked}: {failed[0]}", "leave --rewrite out, and report the graph")
    sound = [form for form in forms if form.name in errors]
    chosen = sound[-1] if asked != AUTO else _form(forms, choice.choose(_by_form(trials), ORIGINAL))
    engine, why = (chosen, []) if asked != AUTO else _for_engine(sound, job)
    disk.write(out, files[chosen.name].read_bytes())
    if engine is not chosen:
        disk.write(out.with_name(ENGINE_GRAPH), files[engine.name].read_bytes())
    for file in files.values():
        if file != before:
            file.unlink()
    return {
        "chosen": chosen.name,
        "for_engine": engine.name,
        "max_error": errors[chosen.name],
        "nodes": chosen.nodes,
        "nodes_before": forms[0].nodes,
        "candidates": [_told(form, errors, trials) for form in forms],
        "rewrites": serde.encode(_outcomes(forms)),
        "remarks": [_remark(chosen, job, trials, how, strayed=bool(failed)), *why, *failed],
    }


def _forms_of(model: onnx.ModelProto, wanted: Mapping[str, Sequence[str]]) -> tuple[list[Candidate], list[str]]:
    """The forms of the graph, the original first, and a line for each recipe that cannot be carried out on it."""
    try:
        return rewrites_forms.candidates(model, wanted), []
    except Exception:  # a rewrite that stumbles over a graph of strangers costs its own recipes alone
        why = {name: _stumbles(model, recipe) for name, recipe in wanted.items()}
    able = {name: recipe for name, recipe in wanted.items() if not why[name]}
    return rewrites_forms.candidates(model, able), [
        f"{name} cannot be made: {reason}" for name, reason in why.items() if reason
    ]


def _stumbles(model: onnx.ModelProto, recipe: Sequence[str]) -> str:
    """What a recipe raises on this graph; nothing if it can be carried out."""
    try:
        rewrites_forms.rewrite(model, recipe)
    except Exception as error:  # whatever it is, it is not the user's
        return f"{type(error).__name__} {error}"[:_LONGEST].strip()
    return ""


def _written(form: Candidate, before: Path, out: Path) -> Path:
    """The file of a form; the original's is there already."""
    if form.name == ORIGINAL:
        return before
    file = out.with_name(f"{form.name}.onnx")
    disk.write(file, form.model.SerializeToString(deterministic=True))
    return file


def _opened(stack: ExitStack, runner: str, files: Mapping[str, Path]) -> tuple[dict[str, Session], list[str]]:
    """A session of every form that is a sound graph, and a line for each that is none."""
    opened = {name: _session(stack, runner, file) for name, file in files.items()}
    refused = [f"{name} is no sound graph: {why}" for name, why in opened.items() if isinstance(why, str)]
    if isinstance(why := opened[ORIGINAL], str):
        raise StageFailed(f"the simplified graph cannot be opened: {why}", f"see the {Stage.SIMPLIFY} stage")
    return {name: session for name, session in opened.items() if not isinstance(session, str)}, refused


def _session(stack: ExitStack, runner: str, file: Path) -> Session | str:
    try:
        onnx.checker.check_model(str(file), full_check=True)
        return stack.enter_context(load_backend(runner).start(file))
    except (StageFailed, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return " ".join(str(error).split())[:_LONGEST]


def _form(forms: Sequence[Candidate], name: str) -> Candidate:
    return next(form for form in forms if form.name == name)


def _for_engine(forms: Sequence[Candidate], job: Job) -> tuple[Candidate, list[str]]:
    """The form for FP16 and engines, and a line that says why, if it is not the original.

    A GPU waits for launches, so it is the form with the fewest nodes, if its weights are not too many. Where engines
    are asked for, TensorRT-RTX has the last word: what it says it would launch decides.
    """
    before = forms[0]
    light = [form for form in forms if form.weights <= _HEAVIEST * before.weights]
    best = min(light, key=lambda form: form.nodes)
    if best is before:
        return before, []
    if not job.options.targets or not FLAVOURS[TENSORRT_RTX].version:
        return best, [f"{best.name} for FP16 and engines: {best.nodes} nodes for {before.nodes} (estimated)"]
    free = {**job.options.sizes, BATCH: job.options.batch}
    try:
        old, new = (tensorrt_estimate.estimate(_fp16(form.model), job.model.inputs, free) for form in (before, best))
    except (MissingBackend, StageFailed) as error:
        return best, [f"{best.name} for FP16 and engines, not estimated: {error}"]
    figures = (
        f"{new.kernels} kernels for {old.kernels}, {new.syncs} syncs for {old.syncs}, {disk.size(new.traffic)} of "
        f"tensors for {disk.size(old.traffic)}, engine {disk.size(new.size)} for {disk.size(old.size)}"
    )
    source = "(estimated from TensorRT-RTX's build log)"
    if _is_lighter(new, old):
        return best, [f"{best.name} for FP16 and engines: {figures} {source}"]
    return before, [f"original for FP16 and engines, not {best.name}: {figures} {source}"]


def _fp16(graph: onnx.ModelProto) -> bytes:
    """The graph in FP16, serialized; raises StageFailed if it cannot be converted."""
    try:
        half = fp16.convert(graph, keep_io=True, check=False).half
    except Exception as error:  # onnx's exceptions share no base class
        raise StageFailed(f"the graph cannot be FP16: {error}", f"see the {Stage.FP16} stage") from error
    return bytes(half.SerializeToString())


def _is_lighter(new: BuildEstimate, old: BuildEstimate) -> bool:
    return new.kernels + new.syncs < old.kernels + old.syncs and new.size <= _HEAVIEST * old.size


def _proved(
    sessions: Mapping[str, Session], sample: Golden, before: Path, job: Job
) -> tuple[dict[str, float], list[str]]:
    """The error of every form that computes what the original does, and a line for each that does not.

    A form that deviates from the original is still right if it is nearer to the FP64 truth.
    """
    expected = replay(sessions[ORIGINAL], sample.inputs, SMALL_BATCHES)
    ran = {name: _ran(session, sample.inputs) for name, session in sessions.items() if name != ORIGINAL}
    answers = {ORIGINAL: expected, **{name: got for name, got in ran.items() if not isinstance(got, str)}}
    failed = [f"{name} does not run: {why}" for name, why in ran.items() if isinstance(why, str)]
    tolerance = metrics.tolerances(sample.noise, job.options.tolerance).fp32
    errors = {}
    for name, got in answers.items():
        found = metrics.check(got, expected, before.parent.name, tolerance, sample.ties32)
        if found.broken and metrics.deviates(got, expected, sample, tolerance):
            failed.append(f"{name} is not what it replaces: {verdict.describe_failure(found)}")
        else:
            errors[name] = found.parity.max_error
    return errors, failed


def _ran(session: Session, inputs: Arrays) -> Arrays | str:
    """The answers of a form, or why it has none."""
    try:
        return replay(session, inputs, SMALL_BATCHES)
    except StageFailed as error:
        return " ".join(str(error).split())[:_LONGEST]


def _timed(
    sessions: Mapping[str, Session], inputs: Arrays, job: Job, *, single: bool = False
) -> tuple[Trials, str | None]:
    """All forms against the original at the smallest batch, and those with a chance at the typical one.

    With it comes why the machine was too busy to say, if it was: sessions of a `single` thread are timed by what that
    thread works, which holds on a busy machine too.
    """
    clock, threads = ("cpu_ms", 1) if single else ("wall_ms", os.cpu_count() or 1)
    trials: Trials = {name: {} for name in sessions}
    running = dict(sessions)
    for batch in dict.fromkeys((job.options.batch.smallest, job.options.batch.typical)):
        if len(running) < 2:
            break
        fed = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in inputs.items()}
        calls = {name: partial(session, **fed) for name, session in running.items()}
        found, seen = machine_state.time_watched(calls, _SECONDS, threads)
        busy = seen.uneven or comparison.most_delayed(found, threads)
        if busy and not single:
            return trials, busy
        taken: dict[str, Milliseconds] = {name: getattr(series, clock) for name, series in found.items()}
        for name, series in taken.items():
            trials[name][batch] = benchmark_ratio.ratio(taken[ORIGINAL], series)
        rivals = sorted((name for name in running if name != ORIGINAL), key=lambda name: -trials[name][batch].value)
        hopeful = [name for name in rivals[:_CONTENDERS] if trials[name][batch].value >= choice.MIN_RATIO]
        running = {name: sessions[name] for name in (ORIGINAL, *hopeful)}
        one = sum(float(np.median(taken[name])) for name in running) / batch / 1000
        if one * job.options.batch.typical * benchmark_ratio.MIN_ROUNDS > _PATIENCE:
            break
    return trials, None


def _by_form(trials: Trials) -> dict[str, list[Ratio]]:
    """The ratios of the forms that were timed at every batch."""
    batches = trials.get(ORIGINAL, {})
    return {
        name: list(each.values()) for name, each in trials.items() if name != ORIGINAL and len(each) == len(batches)
    }


def _told(form: Candidate, errors: Mapping[str, float], trials: Trials) -> dict[str, serde.Json]:
    """One candidate, as the receipt keeps it."""
    timed = {str(batch): serde.encode(ratio) for batch, ratio in trials.get(form.name, {}).items()}
    size = {"nodes": form.nodes, "weights": form.weights}
    return {"names": list(form.names), **size, "max_error": errors.get(form.name), "faster_than_original": timed}


def _outcomes(forms: Sequence[Candidate]) -> dict[str, rewrites_forms.Outcome]:
    """What became of every rewrite, in the first recipe that it fired in, or else in the last that tried it."""
    found: dict[str, rewrites_forms.Outcome] = {}
    for form in forms:
        for name, outcome in form.outcomes.items():
            if name not in found or not found[name].applied:
                found[name] = outcome
    return found


def _remark(chosen: Candidate, job: Job, trials: Trials, how: str, *, strayed: bool) -> str:
    """What was chosen, of what, and how it was found."""
    asked, implied = job.options.rewrite, job.options.rewrite_implied
    if asked != AUTO and strayed:
        return f"original: {asked} is left out"
    if asked == chosen.name:
        return f"{chosen.name}, as {'--quick has it' if implied else 'asked for'}"
    if asked != AUTO:
        return f"original: nothing in {asked} applies"
    rivals = ", ".join(name for name in trials if name != chosen.name)
    if not rivals:
        return "original: no rewrite applies" if trials else "original: only ONNX Runtime is timed"
    if chosen.name == ORIGINAL:
        return f"original: none of {rivals} is surely faster ({how})"
    gains = [
        f"{ratio.value:.2f}× ({ratio.low:.2f}–{ratio.high:.2f}) the original graph's speed at batch {batch}"
        for batch, ratio in trials[chosen.name].items()
    ]
    return f"{chosen.name}, of {rivals}: {', '.join(gains)} ({how})"
