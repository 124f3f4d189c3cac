"""Records the golden data: inputs, FP32 answers and the FP64 reference, so that later comparisons need no torch."""

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
from deploytool.data import (
    class_names,
    edge_cases,
    golden,
    image_inputs,
    images,
    inputs_file,
    items,
    preprocess,
    synthetic,
)
from deploytool.data.golden import Arrays, Edge, Golden, Noise, PixelsByInput
from deploytool.data.image_inputs import ImageInput
from deploytool.data.items import Items
from deploytool.errors import BadInput, StageFailed
from deploytool.host import memory
from deploytool.loading.stage_inputs import StageInputs
from deploytool.model_checks import selections
from deploytool.parity import (
    coverage,
    detection_rows,
    edge_checks,
    metrics,
    noise,
    noise_floor,
    normalised_pixels,
    ties,
)
from deploytool.parity.replay import SMALL_BATCHES, replay
from deploytool.parity.ties import PerturbedRuns, Ties
from deploytool.results.artifact import Notes
from deploytool.results.report import COARSEST, IMPLAUSIBLE
from deploytool.serde import Json
from deploytool.spec import Job, Model

# margin of a clear case: far more than FP16 changes an output, so that a changed top-1 is a fault and not a tie
_CLEAR_MARGIN = 0.01
_MAX_SPARE = 16  # cases drawn in addition to the requested number, so that the best can be chosen


@dataclass(frozen=True)
class _Cases:
    """Golden cases without answers; `pixels` are those of the image inputs, without those that were not kept."""

    pixels: PixelsByInput
    inputs: Arrays
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...] = ()

    def with_more(self, pixels: images.Pixels, inputs: Arrays) -> _Cases:
        """These cases followed by others without labels, of which `pixels` are those of the first image input.

        Without pixels of it if the sizes of the images differ.
        """
        joined = {name: np.concatenate([array, inputs[name]]) for name, array in self.inputs.items()}
        labels = np.append(self.labels, np.full(len(pixels), -1))
        first = golden.first_pixels(self.pixels, len(self.labels))
        if pixels.shape[1:] != first.shape[1:] or not first.size:
            return _Cases({}, joined, labels, self.classes)
        name = next(iter(self.pixels))
        return _Cases({**self.pixels, name: np.concatenate([first, pixels])}, joined, labels, self.classes)

    def select(self, indices: Sequence[int]) -> _Cases:
        """The cases with these indices."""
        inputs = {name: array[indices] for name, array in self.inputs.items()}
        pixels = {name: array[indices] for name, array in self.pixels.items()}
        return _Cases(pixels, inputs, self.labels[indices])


def make(job: Job, out: Path, inputs: StageInputs) -> Notes:
    """Writes pixels, inputs, FP32 outputs and FP64 outputs of the golden cases: the user's data or synthetic images.

    Raises BadInput if the user's data cannot be used, StageFailed if the model returns NaN, overflows
    in FP32, or has an output without elements; ParityFailed if its normalisation of pixels is not the declared one.
    """
    source = inputs.source()
    model, weights, module = source.definition, source.weights, eager.load_module(source.weights)
    cases, coverage_remarks = _cases(job, model, module)
    single = eager.make_session(module, model)
    outputs = replay(single, cases.inputs, SMALL_BATCHES)
    _check_elements(outputs)
    reference, edges, fp64_remarks, edge_remarks = _exact(job, model, weights, cases.inputs, single)
    outputs = detection_rows.in_order(outputs, reference, detection_rows.of_model(model, reference))
    if not all(_is_sound(outputs[name], answer) for name, answer in reference.items()):
        raise StageFailed("the model returns NaN, or values that overflow in FP32 but not in FP64", "check its weights")
    measured = noise.measure(module, model, cases.inputs, reference)
    edges, order_remarks = _judgeable(edges, single, reference, measured.noise)
    tied, tie_remarks = _find_ties(module, model, weights, cases.inputs, reference, measured.noise)
    floor = noise_floor.tied(measured.noise, tied.fp32, tied.fp16)
    normalised = _normalisation_notes(weights, model, cases.inputs, outputs, floor, tied)
    answers = (outputs, reference, cases.labels, model.preprocessing, floor, edges, tied.fp32, tied.fp16)
    pixels = golden.first_pixels(cases.pixels, len(cases.labels))
    further = dict(list(cases.pixels.items())[1:])
    golden.write(out, Golden(pixels, cases.inputs, *answers, further_pixels=further))
    return {
        "images": len(cases.labels),
        "smallest_margin": float(_margins(model, outputs).min()),
        "selections": list(_selections(module, model, cases.inputs, measured.noise)),
        "classes": list(class_names.check_count(model, cases.classes)),
        **normalised,
        "remarks": [
            *_input_remarks(job, model),
            *coverage_remarks,
            *fp64_remarks,
            *measured.remarks,
            *tie_remarks,
            *edge_remarks,
            *order_remarks,
        ],
    }


def _cases(job: Job, model: Model, module: nn.Module) -> tuple[_Cases, list[str]]:
    """The user's cases, or drawn ones with remarks on what they cover, and those of `--cases` after them."""
    remarks: list[str] = []
    if job.options.inputs:
        cases = _read_inputs(job, model)
    elif job.options.data:
        cases = _read_images(job, model)
    else:
        cases, remarks = _draw(job, model, module)
    if job.options.cases:
        cases = cases.with_more(*_read_cases(Path(job.options.cases.path), cases.inputs))
    return cases, remarks


def _check_elements(outputs: Arrays) -> None:
    """Raises StageFailed for an output without elements."""
    if empty := [name for name, answer in outputs.items() if not answer.size]:
        sizes = "×".join(map(str, outputs[empty[0]].shape))
        problem = f"the output {empty[0]} has no elements ({sizes}), so that nothing of it can be compared"
        raise StageFailed(problem, "leave it out (--output), or give inputs for which it has some (--inputs)")


def _normalisation_notes(
    weights: Path, model: Model, inputs: Arrays, outputs: Arrays, floor: Noise, tied: Ties
) -> dict[str, Json]:
    """The error of a model that takes pixels against the model itself; raises ParityFailed if it is too large."""
    if model.normalisation is None:
        return {}
    return {"normalisation_error": normalised_pixels.check(weights, inputs, outputs, floor, tied.fp32)}


def _exact(
    job: Job, model: Model, weights: Path, inputs: Arrays, single: Session
) -> tuple[Arrays, tuple[Edge, ...], list[str], list[Json]]:
    """The FP64 answers, the edge cases with theirs, and remarks on both; the session in FP64 ends with this function.

    A session holds a module: together with what follows, they would take the memory three times.
    """
    with _fp64_session(weights, inputs, single) as (double, remarks):
        reference = replay(double, inputs, SMALL_BATCHES)
        edges, edge_remarks = _edge_cases(model, inputs, job.options.images, single, double)
    del double
    memory.release_unused()
    return reference, edges, remarks, edge_remarks


def _selections(module: nn.Module, model: Model, inputs: Arrays, measured: Noise) -> tuple[str, ...]:
    """The selections that make the noise too large for any tolerance; none if it is not too large."""
    largest = max((part.fp32.max_error for part in measured.parts), default=measured.fp32.max_error)
    return selections.find(module, model, inputs) if largest > IMPLAUSIBLE else ()


@contextmanager
def _fp64_session(weights: Path, inputs: Arrays, single: Session) -> Iterator[tuple[Session, list[str]]]:
    """The model in FP64; if it does not run in FP64, the session in FP32 and a remark."""
    with ExitStack() as stack:
        try:
            session = stack.enter_context(eager.start(weights, double=True))
            session(**{name: array[:1] for name, array in inputs.items()})
            remarks: list[str] = []
        except StageFailed as error:
            session = single
            remarks = [f"the model does not run in FP64, so its FP32 outputs are the reference: {error}"]
        yield session, remarks


def _edge_cases(
    model: Model, inputs: Arrays, most: int, single: Session, double: Session
) -> tuple[tuple[Edge, ...], list[Json]]:
    """At most `most` edge cases with the answers of the model, and a remark for each that is left out.

    An edge case is left out if the FP32 answer of the model is not finite or not close to FP64: no artifact could pass.
    """
    edges, remarks = list[Edge](), list[Json]()
    for case in edge_cases.draw(model, {name: array[:1] for name, array in inputs.items()}, most):
        try:
            outputs, reference = (replay(session, case.inputs, SMALL_BATCHES) for session in (single, double))
        except StageFailed as error:
            remarks.append(f"edge case {case.name} is left out: {error}")
            continue
        parity = metrics.compare(detection_rows.aligned_for(model, outputs, reference), reference)
        rows = detection_rows.of_model(model, reference)
        if detection_rows.are_arbitrary(reference, rows):
            remarks.append(f"edge case {case.name} is left out: many detections have equal scores there")
        elif parity.invalid:
            remarks.append(f"edge case {case.name} is left out: the model returns NaN or infinite values")
        elif parity.max_error > COARSEST:
            remarks.append(
                f"edge case {case.name} is left out: the model's FP32 output has an error of {parity.max_error:.1e}"
            )
        else:
            edges.append(Edge(case.name, case.natural, case.inputs, outputs, reference))
    return tuple(edges), remarks


def _judgeable(
    edges: Sequence[Edge], single: Session, reference: Arrays, floor: Noise
) -> tuple[tuple[Edge, ...], list[Json]]:
    """The edge cases with a tolerance, and a remark for each that is left out since the order of sums decides.

    The largest tolerance would have to be exceeded there: the error of the worst order counts `ORDER_FACTOR` times.
    """
    kept, remarks = list[Edge](), list[Json]()
    for edge in edges:
        try:
            answers = noise.sequential_answers(single, edge.inputs)
        except StageFailed:  # the noise is measured without such a run too, and has a remark
            answers = edge.outputs
        moved = edge_checks.error(answers, edge, reference, floor)
        if noise.ORDER_FACTOR * moved > COARSEST:
            cause = f"the order of FP32 sums alone changes the model's output by {moved:.1e}"
            remarks.append(f"edge case {edge.name} is left out: {cause}")
        else:
            kept.append(edge)
    return tuple(kept), remarks


def _input_remarks(job: Job, model: Model) -> list[str]:
    """The source of the golden inputs, and the preprocessing unless the model itself defines it."""
    source = [f"golden inputs are read from {job.options.inputs.path}"] if job.options.inputs else []
    preprocessing, tensors = model.preprocessing, model.preprocessing.images(model.inputs)
    shown = preprocessing.assumed or bool(preprocessing.stated) or any(tensor.dtype == "uint8" for tensor in tensors)
    lines = [preprocess.describe(preprocessing, tensors)] if tensors and shown else []
    if model.normalisation is not None:
        lines.append(f"in the graph: {preprocess.describe_normalisation(model.normalisation, model.normalised)}")
    return [*source, *lines]


def _find_ties(
    module: nn.Module, model: Model, weights: Path, inputs: Arrays, reference: Arrays, measured: Noise
) -> tuple[Ties, list[str]]:
    """The ties of every output that contains labels, and a remark if the model cannot be run with perturbed inputs."""
    names = list(dict.fromkeys(floor.part.output for floor in measured.parts if floor.part.labels))
    if not names:
        return Ties({}, {}), []
    single, half = noise.perturbed_runs(module, model)
    try:
        with eager.start(weights, double=True) as double:
            runs = PerturbedRuns(lambda feeds: double(**feeds), single, half)
            return ties.find(runs, inputs, reference, names, measured.rows), []
    except (StageFailed, RuntimeError, TypeError, ValueError) as error:  # raised by the user's code
        reason = " ".join(str(error).split())
        return Ties({}, {}), [f"the ties in {', '.join(names)} cannot be determined: {reason}"]


def _is_sound(answer: npt.NDArray[np.generic], exact: npt.NDArray[np.generic]) -> bool:
    """Whether an answer has no NaN, and infinite values only where FP64 has the same: a mask is not an overflow."""
    if not np.issubdtype(answer.dtype, np.floating):
        return True
    return not np.isnan(answer).any() and bool((np.isfinite(answer) | (answer == exact)).all())


def _read_images(job: Job, model: Model) -> _Cases:
    """The user's images as inputs of the model, with labels if their layout has some."""
    assert job.options.data is not None
    found = image_inputs.find(model.inputs, model.preprocessing, job.options.sizes)
    if not found:
        raise _no_images(model)
    names = [each.tensor.name for each in found]
    read = items.read(Path(job.options.data.path), names, limit=job.options.images, seed=job.options.seed)
    pixels = {
        each.tensor.name: _fitted(each, [item[place] for item in read.paths], job) for place, each in enumerate(found)
    }
    inputs = {each.tensor.name: each.normalise(pixels[each.tensor.name]) for each in found}
    return _Cases(pixels, inputs, _labels(read, model), read.classes)


def _no_images(model: Model) -> BadInput:
    """The error for images that cannot be the inputs of a model: one of them is no image, or none is known as one."""
    found = model.preprocessing.images(model.inputs)
    other = next((tensor for tensor in model.inputs if tensor not in found), None)
    if found and other:
        problem = f"{model.name} takes images for {found[0].name}, but {other.name} does not count as one"
        arrays = ", ".join(f"{tensor.name}=…" for tensor in model.inputs)
        shape = "×".join(map(str, ("cases", *found[0].shape[1:])))
        saved = f"the images as {found[0].name} takes them: {found[0].dtype}, {shape}, normalised"
        remedy = f"leave --data out, and give all inputs with --inputs: numpy.savez(FILE, {arrays}), {saved}"
        grey = "; beside an image of three channels, one channel is no image" if len(other.shape) == 4 else ""
        return BadInput(problem, f"{remedy}{grey}")
    remedy = "leave --data out, or state how an image becomes the input: --mean 0 --std 1, or --layout"
    return BadInput(f"{model.name} does not accept images alone as inputs", remedy)


def _fitted(image_input: ImageInput, paths: Sequence[Path], job: Job) -> images.Pixels:
    """The images of an input at its size; raises BadInput if they have different sizes, or one that it refuses."""
    fitted = [image_input.fit(images.read(path)) for path in paths]
    other = next((index for index, image in enumerate(fitted) if image.shape != fitted[0].shape), None)
    if other is not None:
        sizes = " and ".join(f"{image.shape[0]} × {image.shape[1]}" for image in (fitted[0], fitted[other]))
        names = f"{paths[0].name} and {paths[other].name}"
        remedy = "state the size: --crop 96, or --crop 96x128"
        if image_input.how.fit == preprocess.WITHIN:
            remedy = f"use --fit {preprocess.LETTERBOX}, or images of one shape"
        raise BadInput(f"{names} are {sizes}: golden images must share one size", remedy)
    if problem := image_input.size_problem(fitted[0], job.options.sizes):
        height, width = fitted[0].shape[:2]
        becomes = f"{paths[0].name} becomes {height} × {width} for {image_input.tensor.name}"
        raise BadInput(f"{becomes}: {problem}", "correct --size, --resize or --crop")
    return np.stack(fitted)


def _labels(read: Items, model: Model) -> npt.NDArray[np.int64]:
    """The class index of each item: that of the model if it has these class names, else that of the data."""
    if read.classes and set(read.classes) <= set(model.classes):
        return np.array([model.classes.index(read.classes[label]) for label in read.labels], np.int64)
    return np.array(read.labels or [-1] * len(read.paths), np.int64)


def _read_inputs(job: Job, model: Model) -> _Cases:
    """The inputs of the user's file, without pixels and labels."""
    assert job.options.inputs is not None
    path, options = Path(job.options.inputs.path), job.options
    inputs = inputs_file.read(path, model.inputs, options.sizes, options.images)
    count = len(next(iter(inputs.values())))
    return _Cases({}, inputs, np.full(count, -1))


def _draw(job: Job, model: Model, module: nn.Module) -> tuple[_Cases, list[str]]:
    """Synthetic cases with the highest coverage of the model, preferably with a clear class, and a coverage remark."""
    count, sizes = job.options.images, synthetic.sides(job.options.sizes, "typical")
    # `load` draws its calibration batch with seed + 1, so that no golden image is part of it
    drawn = count + min(count, _MAX_SPARE)
    pixels, inputs = synthetic.draw(model, drawn, (job.options.seed + 1) * 1000, sizes, hard=True)
    result = coverage.measure(module, model, inputs)
    clear = np.flatnonzero(_margins(model, result.answers) >= _CLEAR_MARGIN).tolist()
    chosen = coverage.choose(result.extremes, count, clear)
    remarks = [result.remark] if result.remark else []
    return _Cases(pixels, inputs, np.full(drawn, -1)).select(sorted(chosen)), remarks


def _read_cases(file: Path, inputs: Arrays) -> tuple[images.Pixels, Arrays]:
    """The cases of a golden file; raises BadInput if their shapes or dtypes are not those of the inputs."""
    pixels, arrays = golden.read_cases(file)
    if {name: (array.shape[1:], array.dtype) for name, array in arrays.items()} != {
        name: (array.shape[1:], array.dtype) for name, array in inputs.items()
    }:
        raise BadInput(
            f"the cases of {file} do not match the inputs of this model", "use cases of a run of the same model"
        )
    return pixels, arrays


def _margins(model: Model, answers: Arrays) -> npt.NDArray[np.float64]:
    """The smallest margin of each case over all outputs."""
    smallest: npt.NDArray[np.float64] = np.min([margin(answers[tensor.name]) for tensor in model.outputs], axis=0)
    return smallest


def margin(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The difference between the best and the second score of each case, relative to the largest score of all.

    1 for outputs that are not class scores of shape (cases, classes).
    """
    if scores.ndim != 2 or scores.shape[1] < 2:
        return np.ones(len(scores))
    ordered = np.sort(np.nan_to_num(scores.astype(np.float64), posinf=0.0, neginf=-np.inf), axis=1)
    largest = np.abs(ordered, where=np.isfinite(ordered), out=np.zeros_like(ordered)).max() or 1.0
    margins: npt.NDArray[np.float64] = np.nan_to_num(ordered[:, -1] - ordered[:, -2], nan=0.0) / largest
    return margins.clip(max=1.0)
