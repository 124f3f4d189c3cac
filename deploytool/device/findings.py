"""What the outputs of a model say about one picture, by its task: classes, boxes, areas, tokens or an embedding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from deploytool.backends.session import Array
from deploytool.bundle.manifest import Manifest
from deploytool.data.golden import Arrays
from deploytool.data.placement import UNSEEN, Placement
from deploytool.errors import BadInput
from deploytool.spec import Task
from deploytool.tasks import detections, interpret, segmentation
from deploytool.tasks import objects as named_objects
from deploytool.tasks.detections import Detections
from deploytool.tasks.objects import Box


@dataclass(frozen=True)
class Guess:
    """One output for one image: its best classes with their scores, or its shape and range if it has no classes.

    `names` are the names of the classes, empty where the bundle has none.
    """

    picture: str
    output: str
    shape: tuple[int, ...]
    classes: tuple[int, ...]
    names: tuple[str, ...]
    scores: tuple[float, ...]
    smallest: float
    largest: float


@dataclass(frozen=True)
class Objects:
    """The objects in one picture of `size` (height, width), the best first; `below` more have too low a score.

    `drawing`, here and below, is the file with what was drawn, empty without one.
    """

    picture: str
    size: tuple[int, int]
    boxes: tuple[Box, ...]
    below: int
    drawing: str = ""


@dataclass(frozen=True)
class Share:
    """A class with its share of the pixels that the model saw.

    The name, here and below, is empty where the bundle has none for an index.
    """

    index: int
    name: str
    share: float


@dataclass(frozen=True)
class Areas:
    """The classes of the pixels of one picture of `size` (height, width), the largest share first.

    `seen` is the share of the pixels that are in the input: a crop cuts some off.
    """

    picture: str
    output: str
    size: tuple[int, int]
    shares: tuple[Share, ...]
    seen: float
    drawing: str = ""


@dataclass(frozen=True)
class TokenSequence:
    """The tokens of one picture, by index and by name."""

    picture: str
    tokens: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Embedding:
    """One output for one picture: its shape and its Euclidean norm."""

    picture: str
    output: str
    shape: tuple[int, ...]
    norm: float


@dataclass(frozen=True)
class Findings:
    """What was found in some pictures, in their order; the task decides which field has any."""

    guesses: tuple[Guess, ...] = ()
    objects: tuple[Objects, ...] = ()
    areas: tuple[Areas, ...] = ()
    sequences: tuple[TokenSequence, ...] = ()
    embeddings: tuple[Embedding, ...] = ()


def merged(parts: Iterable[Findings]) -> Findings:
    """The findings of all parts, in their order."""
    kept = list(parts)
    return Findings(*(tuple(item for part in kept for item in getattr(part, each.name)) for each in fields(Findings)))


def guess(picture: str, name: str, array: Array, top: int, class_names: Sequence[str]) -> Guess:
    """The `top` best classes of an output of one image, without its batch axis; no classes unless it is a vector."""
    _check_finite(picture, name, array)
    scores = array.astype(np.float64)
    best = np.argsort(-scores, kind="stable")[:top] if array.ndim == 1 else np.zeros(0, int)
    best_scores = tuple(float(score) for score in array[best]) if len(best) else ()
    classes = tuple(int(index) for index in best)
    names = tuple(class_names[index] for index in classes) if len(class_names) == len(scores.ravel()) else ()
    return Guess(picture, name, array.shape, classes, names, best_scores, float(array.min()), float(array.max()))


def objects(picture: str, outputs: Arrays, manifest: Manifest, placed: Placement, min_score: float) -> Objects:
    """The objects of a detector in one picture, from its outputs with a batch of one.

    Boxes that lie in the padding only are no objects. Raises BadInput if a box or a score is not finite.
    """
    (found,) = detections.decode(outputs, manifest.decoding, placed.canvas)
    _check_finite(picture, "a box", found.boxes)
    _check_finite(picture, "a score", found.scores)
    corners = placed.to_picture(found.boxes)
    visible = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    kept = visible & (found.scores >= min_score)
    shown = Detections(corners[kept], found.scores[kept], found.classes[kept])
    below = int(visible.sum() - kept.sum())
    return Objects(picture, placed.picture, named_objects.named(shown, manifest.classes), below)


def areas(picture: str, outputs: Arrays, manifest: Manifest, placed: Placement) -> tuple[Areas, Array]:
    """The classes of the pixels of one picture, and their map: int32, height × width, `UNSEEN` where it was cropped.

    Raises BadInput unless the one output is a map of classes or of their scores, all of them finite.
    """
    output, (planes,) = segmentation.class_maps(outputs)
    _check_finite(picture, output, outputs[output])
    mapped = placed.map_to_picture(planes)
    indices, counts = np.unique(mapped[mapped != UNSEEN], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    pairs = zip(indices[order].tolist(), (counts[order] / counts.sum()).tolist(), strict=True)
    shares = tuple(Share(index, _name(index, manifest), share) for index, share in pairs)
    return Areas(picture, output, placed.picture, shares, float(counts.sum() / mapped.size)), mapped


def sequence(picture: str, outputs: Arrays, manifest: Manifest) -> TokenSequence:
    """The tokens of one picture; raises BadInput unless one output has them, or scores at each position."""
    for output, batch in outputs.items():
        _check_finite(picture, output, batch)
    tokens = tuple(interpret.tokens(outputs)[0].tolist())
    return TokenSequence(picture, tokens, tuple(_name(index, manifest) for index in tokens))


def embedding(picture: str, output: str, array: Array) -> Embedding:
    """The shape and norm of an output of one picture, without its batch axis."""
    _check_finite(picture, output, array)
    return Embedding(picture, output, array.shape, float(np.linalg.norm(array.astype(np.float64).ravel())))


def drawable(task: Task | None) -> bool:
    """Whether the findings of a task can be drawn into a picture."""
    return task in (Task.DETECT, Task.SEGMENT)


def _name(index: int, manifest: Manifest) -> str:
    return manifest.classes[index] if 0 <= index < len(manifest.classes) else ""


def _check_finite(picture: str, name: str, array: Array) -> None:
    if not np.isfinite(array).all():
        raise BadInput(f"{picture}: {name} is not finite", "check that the model is made for such an image")
