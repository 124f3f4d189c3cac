"""Records the golden sample: images, the model's answers, and the FP64 truth, so that later parity needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from deploytool.backends import eager
from deploytool.backends.session import Session
from deploytool.data import class_names, edge_cases, golden, image_folder, images, inputs_file, preprocess, synthetic
from deploytool.data.golden import Arrays, Edge, Golden, Noise
from deploytool.data.image_folder import Folder
from deploytool.errors import BadInput, StageFailed
from deploytool.loading.stage_inputs import StageInputs
from deploytool.parity import coverage, metrics, noise, noise_floor, ties
from deploytool.parity.replay import SMALL_BATCHES, replay
from deploytool.parity.ties import PerturbedRuns, Ties
from deploytool.results.artifact import Notes
from deploytool.results.report import COARSEST
from deploytool.serde import Json
from deploytool.spec import Job, Model

_CLEAR = 0.01  # of the largest output: far beyond what FP16 may move, so a changed top-1 is a fault and not a tie
_MORE = 16  # cases drawn beyond those wanted, at most as many again, so that there is a choice


@dataclass(frozen=True)
class _Cases:
    """Golden cases without answers."""

    pixels: images.Pixels
    inputs: Arrays
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...] = ()

    def joined(self, pixels: images.Pixels, inputs: Arrays) -> _Cases:
        """These cases, and others of unknown classes behind them."""
        both = {name: np.concatenate([array, inputs[name]]) for name, array in self.inputs.items()}
        labels = np.append(self.labels, np.full(len(pixels), -1))
        if pixels.shape[1:] != self.pixels.shape[1:]:  # a file of inputs has no pixels: then none are kept
            return _Cases(np.zeros((len(labels), 0, 0, 3), np.uint8), both, labels, self.classes)
        return _Cases(np.concatenate([self.pixels, pixels]), both, labels, self.classes)

    def few(self, chosen: Sequence[int]) -> _Cases:
        """Some of these cases."""
        inputs = {name: array[chosen] for name, array in self.inputs.items()}
        return _Cases(self.pixels[chosen], inputs, self.labels[chosen])


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes the golden cases: pixels, inputs, FP32 outputs and FP64 outputs, of photographs or of drawn images.

    Raises BadInput if the folder cannot be used, StageFailed if the model answers with NaN or infinite values.
    """
    source = inputs.source()
    model, weights, module = source.definition, source.weights, eager.load_module(source.weights)
    said: list[str] = []
    if job.options.inputs:
        cases = _of_file(job, model)
    elif job.options.data:
        cases = _photographs(job, model)
    else:
        cases, said = _drawn(job, model, module)
    if job.options.cases:
        cases = cases.joined(*_further(Path(job.options.cases.path), cases.inputs))
    single = eager.make_session(module, model)
    outputs = replay(single, cases.inputs, SMALL_BATCHES)
    with _double(weights, cases.inputs, single) as (double, lacking):
        reference = replay(double, cases.inputs, SMALL_BATCHES)
        beyond, remarks = _beyond(model, cases.inputs, job.options.images, single, double)
    if not all(_sound(outputs[name], answer) for name, answer in reference.items()):
        raise StageFailed("the model itself answers with NaN, or infinite values by FP32 alone", "check its weights")
    moved = noise.measure(module, model, cases.inputs, reference)
    found, untold = _tied(module, model, weights, cases.inputs, reference, moved.noise)
    tied = noise_floor.tied(moved.noise, found.fp32, found.fp16)
    known = (outputs, reference, cases.labels, model.preprocessing, tied, beyond, found.fp32, found.fp16)
    golden.write(out, Golden(cases.pixels, cases.inputs, *known))
    margin = float(_margins(model, outputs).min())
    return {
        "images": len(cases.labels),
        "smallest_margin": margin,
        "classes": list(class_names.check_count(model, cases.classes)),
        "remarks": [*_prepared(job, model), *said, *lacking, *moved.remarks, *untold, *remarks],
    }


@contextmanager
def _double(weights: Path, inputs: Arrays, single: Session) -> Iterator[tuple[Session, list[str]]]:
    """The model in FP64; where it cannot run so the model as it is, with a remark that says so."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(eager.start(weights, double=True))
            found(**{name: array[:1] for name, array in inputs.items()})
            said: list[str] = []
        except StageFailed as problem:
            found, said = single, [f"no FP64 reference, the model's own FP32 answers stand for it: {problem}"]
        yield found, said


def _beyond(
    model: Model, inputs: Arrays, most: int, single: Session, double: Session
) -> tuple[tuple[Edge, ...], list[Json]]:
    """At most so many edge cases as `most` with the model's answers, and a line for each that has no sound one.

    Where the model's own FP32 answer is not finite or not near FP64, no artifact can be held to it.
    """
    found, remarks = list[Edge](), list[Json]()
    for case in edge_cases.draw(model, {name: array[:1] for name, array in inputs.items()}, most):
        try:
            outputs, reference = (replay(each, case.inputs, SMALL_BATCHES) for each in (single, double))
        except StageFailed as error:  # what it cannot take, nothing is asked
            remarks.append(f"not tried at {case.name}: {error}")
            continue
        apart = metrics.compare(outputs, reference)
        if apart.invalid:
            remarks.append(f"not tried at {case.name}: the model itself answers with NaN or infinite values")
        elif apart.max_error > COARSEST:
            remarks.append(f"not tried at {case.name}: the model's own FP32 answer is off by {apart.max_error:.1e}")
        else:
            found.append(Edge(case.name, case.natural, case.inputs, outputs, reference))
    return tuple(found), remarks


def _prepared(job: Job, model: Model) -> list[str]:
    """Where golden inputs are from, and how pictures become the model's, unless that is the model's own word."""
    source = [f"golden inputs: those of {job.options.inputs.path}"] if job.options.inputs else []
    how, pictured = model.preprocessing, model.preprocessing.images(model.inputs)
    said = how.assumed or bool(how.stated) or any(tensor.dtype == "uint8" for tensor in pictured)
    return [*source, *([preprocess.describe(how, pictured)] if pictured and said else [])]


def _tied(
    module: nn.Module, model: Model, weights: Path, inputs: Arrays, reference: Arrays, moved: Noise
) -> tuple[Ties, list[str]]:
    """The ties of every output with numbers of something, and a line where the model does not take being asked."""
    names = list(dict.fromkeys(each.part.output for each in moved.parts if each.part.labels))
    if not names:
        return Ties({}, {}), []
    single, half = noise.perturbed_runs(module, model)
    try:
        with eager.start(weights, double=True) as double:
            return ties.find(PerturbedRuns(lambda given: double(**given), single, half), inputs, reference, names), []
    except (StageFailed, RuntimeError, TypeError, ValueError) as error:  # a probe of ours, through the user's code
        why = " ".join(str(error).split())
        return Ties({}, {}), [f"which of {', '.join(names)} are ties is not known: {why}"]


def _sound(answer: npt.NDArray[np.generic], exact: npt.NDArray[np.generic]) -> bool:
    """Whether an answer has no NaN, and is infinite only where FP64 has it so too: a mask, and no overflow."""
    if not np.issubdtype(answer.dtype, np.floating):
        return True
    return not np.isnan(answer).any() and bool((np.isfinite(answer) | (answer == exact)).all())


def _photographs(job: Job, model: Model) -> _Cases:
    """The user's photographs as the model's input, with their labels where the folder has classes."""
    assert job.options.data is not None
    how, (tensor, *others) = model.preprocessing, model.inputs
    if others or not how.images([tensor]):
        remedy = "leave --data out, or say how a picture becomes its input: --mean 0 --std 1, or --layout"
        raise BadInput(f"{model.name} does not take one image", remedy)
    found = image_folder.read(Path(job.options.data.path), limit=job.options.images, seed=job.options.seed)
    fitted = [images.fit(images.read(path), how) for path in found.paths]
    other = next((place for place, each in enumerate(fitted) if each.shape != fitted[0].shape), None)
    if other is not None:
        sizes = " and ".join(f"{each.shape[0]} × {each.shape[1]}" for each in (fitted[0], fitted[other]))
        problem = f"{found.paths[0].name} and {found.paths[other].name} are {sizes}, and golden images share one size"
        raise BadInput(problem, "say which: --crop 96, or --crop 96x128")
    pixels = np.stack(fitted)
    made = images.normalise(pixels, how, tensor)
    unfit = preprocess.size_problem(made.shape, tensor, job.options.sizes)
    if unfit:
        raise BadInput(f"{found.paths[0].name} becomes {made.shape[1:]}: {unfit}", "mend --size, --resize or --crop")
    return _Cases(pixels, {tensor.name: made}, _labels(found, model), found.classes)


def _labels(found: Folder, model: Model) -> npt.NDArray[np.int64]:
    """The class of each picture: by the model's own names where the folders bear these, else by their order."""
    if found.classes and set(found.classes) <= set(model.classes):
        return np.array([model.classes.index(found.classes[label]) for label in found.labels], np.int64)
    return np.array(found.labels or [-1] * len(found.paths), np.int64)


def _of_file(job: Job, model: Model) -> _Cases:
    """The user's own inputs: no pictures and no classes are known of them."""
    assert job.options.inputs is not None
    path, options = Path(job.options.inputs.path), job.options
    inputs = inputs_file.read(path, model.inputs, options.sizes, options.images)
    count = len(next(iter(inputs.values())))
    return _Cases(np.zeros((count, 0, 0, 3), np.uint8), inputs, np.full(count, -1))


def _drawn(job: Job, model: Model, module: nn.Module) -> tuple[_Cases, list[str]]:
    """Drawn cases that show most of the model, and of whose class it is sure, as far as there are such."""
    wanted, sizes = job.options.images, synthetic.sides(job.options.sizes, "typical")
    # the calibration batch of `load` has seed + 1: golden images are never among it
    pixels, inputs = synthetic.draw(model, wanted + min(wanted, _MORE), (job.options.seed + 1) * 1000, sizes, hard=True)
    heard = coverage.measure(module, model, inputs)
    clear = np.flatnonzero(_margins(model, heard.answers) >= _CLEAR).tolist()
    chosen = coverage.choose(heard.extremes, wanted, clear)
    remarks = [heard.remark] if heard.remark else []
    return _Cases(pixels, inputs, np.full(len(pixels), -1)).few(sorted(chosen)), remarks


def _further(file: Path, inputs: Arrays) -> tuple[images.Pixels, Arrays]:
    """The cases of a file; raises BadInput if they are of another model."""
    pixels, arrays = golden.read_cases(file)
    if {name: (array.shape[1:], array.dtype) for name, array in arrays.items()} != {
        name: (array.shape[1:], array.dtype) for name, array in inputs.items()
    }:
        raise BadInput(f"the cases of {file} are no inputs of this model", "give those of a run of the same model")
    return pixels, arrays


def _margins(model: Model, answers: Arrays) -> npt.NDArray[np.float64]:
    """The smallest margin of each case over all outputs that are scores of classes."""
    smallest: npt.NDArray[np.float64] = np.min([margin(answers[tensor.name]) for tensor in model.outputs], axis=0)
    return smallest


def margin(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """How far the best class is ahead of the second, for each case, relative to the largest score of all.

    Outputs that are not scores of classes (cases × classes) have no margin to lose: 1.
    """
    if scores.ndim != 2 or scores.shape[1] == 1:
        return np.ones(len(scores))
    ordered = np.sort(np.nan_to_num(scores.astype(np.float64), posinf=0.0, neginf=-np.inf), axis=1)
    largest = np.abs(ordered, where=np.isfinite(ordered), out=np.zeros_like(ordered)).max() or 1.0
    ahead: npt.NDArray[np.float64] = np.nan_to_num(ordered[:, -1] - ordered[:, -2], nan=0.0) / largest
    return ahead.clip(max=1.0)
