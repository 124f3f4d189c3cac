"""The layouts of detector outputs, recognised by names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.errors import BadInput
from deploytool.spec import Decoding, StrEnum
from deploytool.tasks.rows import DetectionRows, RowValues

Array = npt.NDArray[Any]

BOX_NAMES = ("boxes", "pred_boxes", "bboxes", "box", "dets", "detection_boxes")
_SCORES = ("scores", "score", "confidences", "probs", "detection_scores")
_CLASSES = ("labels", "classes", "label", "class", "class_ids", "detection_classes")
_LOGITS = ("logits", "pred_logits", "class_logits", "cls_logits", "cls_scores")
_MOST_ROWS = 2048  # of a selection; more are a head before it, compared in place
_ROW_CHANNELS = 6  # x1, y1, x2, y2, score, class
_FIRST_SCORE = 4  # the channel after the box


class Layout(StrEnum):
    """How the outputs of a detector hold boxes, scores and classes; B images, N boxes, C classes."""

    ROWS = "boxes (B, N, 4), scores (B, N), labels (B, N)"
    PER_CLASS = "boxes (B, N, 4), scores or logits (B, N, C)"
    QUERIES = "pred_boxes (B, N, 4), logits (B, N, C)"
    JOINED = "one output (B, N, 6): x1, y1, x2, y2, score, class"
    CHANNELS_FIRST = "one output (B, 4 + C, N): a box and the scores of all classes"
    CHANNELS_LAST = "one output (B, N, 5 + C): a box, objectness and the scores of all classes"


@dataclass(frozen=True)
class _Role:
    """An output of a layout: its usual names, and the axes after the batch: `4` or a variable."""

    names: tuple[str, ...]
    axes: str
    named: bool = False  # whether the name alone tells it


@dataclass(frozen=True)
class Found:
    """A recognised layout with the names of its outputs; those that it has not are empty."""

    layout: Layout
    boxes: str
    scores: str
    classes: str = ""


_SEPARATE: Mapping[Layout, Mapping[str, _Role]] = {
    Layout.ROWS: {"boxes": _Role(BOX_NAMES, "N4"), "scores": _Role(_SCORES, "N"), "classes": _Role(_CLASSES, "N")},
    Layout.QUERIES: {"boxes": _Role(("pred_boxes",), "N4", named=True), "scores": _Role(_LOGITS, "NC")},
    Layout.PER_CLASS: {"boxes": _Role(BOX_NAMES, "N4"), "scores": _Role(_SCORES + _LOGITS, "NC")},
}
_USUAL: Mapping[Layout, Decoding] = {
    Layout.QUERIES: Decoding(boxes="cxcywh", normalised=True, activation="softmax", background="last"),
    Layout.CHANNELS_FIRST: Decoding(boxes="cxcywh", nms=0.7),
    Layout.CHANNELS_LAST: Decoding(boxes="cxcywh", nms=0.45),
}


def recognise(outputs: Mapping[str, Array]) -> Found:
    """The layout of a detector's outputs, the batch first; raises BadInput where none fits."""
    for layout, roles in _SEPARATE.items():
        if names := _assigned(roles, outputs):
            return Found(layout, **names)
    arrays = {name: array for name, array in outputs.items() if array.ndim == 3 and array.dtype.kind == "f"}
    if len(outputs) == 1 and arrays:
        name, array = next(iter(arrays.items()))
        single = _of_one(array)
        if single is not None:
            return Found(single, name, name, name if single is Layout.JOINED else "")
    given = ", ".join(f"{name} ({', '.join(map(str, array.shape))})" for name, array in outputs.items())
    known = "; ".join(layout.value for layout in Layout)
    raise BadInput(
        f"the outputs {given} are no boxes with scores", f"select outputs (--output) that fit one of: {known}"
    )


def usual_decoding(outputs: Mapping[str, Array]) -> Decoding:
    """How outputs of such a layout usually become boxes; raises BadInput where no layout fits."""
    return _USUAL.get(recognise(outputs).layout, Decoding())


def selected_rows(outputs: Mapping[str, Array], decoding: Decoding) -> DetectionRows | None:
    """The rows of outputs that come after a selection; None for heads before it, and where no layout fits."""
    try:
        found = recognise(outputs)
    except BadInput:
        return None
    cases, rows = outputs[found.boxes].shape[:2]
    along = tuple(name for name, array in outputs.items() if array.shape[:2] == (cases, rows))
    if found.layout not in (Layout.ROWS, Layout.JOINED) or not 1 < rows <= _MOST_ROWS:
        return None
    if found.layout is Layout.ROWS:
        boxes, scores, classes = RowValues(found.boxes, (0, 4)), RowValues(found.scores), RowValues(found.classes)
        return DetectionRows(boxes, scores, classes, along, decoding)
    boxes, scores, classes = (RowValues(found.boxes, channels) for channels in ((0, 4), (4, 5), (5, 6)))
    return DetectionRows(boxes, scores, classes, along, decoding)


def _assigned(roles: Mapping[str, _Role], outputs: Mapping[str, Array]) -> dict[str, str]:
    """The output of each role: that of a usual name, else the only one of the shape; empty if a role has none."""
    chosen: dict[str, str] = {}
    for role, wanted in roles.items():
        fitting = [
            name for name, array in outputs.items() if name not in chosen.values() and _fits(array, role, wanted)
        ]
        usual = [name for name in fitting if base_name(name) in wanted.names]
        candidates = usual if usual or wanted.named else fitting
        if len(candidates) != 1:
            return {}
        chosen[role] = candidates[0]
    counts = {outputs[name].shape[:2] for name in chosen.values()}
    return chosen if len(counts) == 1 else {}


def _fits(array: Array, role: str, wanted: _Role) -> bool:
    """Whether an output has the axes of a role after the batch; boxes and scores are floating-point numbers."""
    fixed = [int(axis) if axis.isdigit() else None for axis in wanted.axes]
    sizes = array.shape[1:]
    same = len(sizes) == len(fixed) and all(want in (None, size) for size, want in zip(sizes, fixed, strict=True))
    return same and (array.dtype.kind == "f" or role == "classes")


def base_name(name: str) -> str:
    """The last part of an output's name, in lower case: `model/Boxes:0` is `boxes`."""
    return name.replace(".", "/").split("/")[-1].partition(":")[0].lower()


def _of_one(array: Array) -> Layout | None:
    """The layout of one output of three axes: boxes are along the longer one, unless six channels end in classes."""
    _, rows, channels = array.shape
    if channels == _ROW_CHANNELS and _are_classes(array[..., -1]):
        return Layout.JOINED
    if rows <= channels:
        return Layout.CHANNELS_FIRST if rows > _FIRST_SCORE else None
    return Layout.CHANNELS_LAST if channels > _FIRST_SCORE + 1 else None


def _are_classes(values: Array) -> bool:
    """Whether all values are integers; rows without a detection may have NaN or -1."""
    finite = values[np.isfinite(values)]
    return bool((finite == np.rint(finite)).all())
