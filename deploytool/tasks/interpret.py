"""What raw outputs are for a task: class scores, embeddings or tokens; and which task outputs plainly belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from deploytool.errors import BadInput
from deploytool.spec import Task
from deploytool.tasks import layouts
from deploytool.tasks.layouts import base_name

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

_SCORE_NAMES = ("logits", "scores", "probs", "probabilities", "log_probs", "class_logits")
_EMBEDDING_NAMES = (
    *("embedding", "embeddings", "embeds", "features", "pooled", "pooler_output"),
    *("image_embeds", "text_embeds", "sentence_embedding", "descriptor"),
)
_MAP_NAMES = ("masks", "mask", "segmentation", "semantic", "class_map", *_SCORE_NAMES, "out")
_TOKEN_NAMES = ("tokens", "token_ids", "sequences", *_SCORE_NAMES)


def class_scores(outputs: Mapping[str, Array]) -> Floats:
    """The scores of a classifier (B, C) in FP64; raises BadInput unless one output has that shape."""
    return _matrix(outputs, "class scores", "classes")


def embeddings(outputs: Mapping[str, Array]) -> Floats:
    """The embeddings (B, D) in FP64, of whatever length; raises BadInput unless one output is that."""
    return _matrix(outputs, "embeddings", "dimensions")


def tokens(outputs: Mapping[str, Array]) -> npt.NDArray[np.int64]:
    """The tokens (B, T): integers as they are, or the best class of scores (B, T, C), of equal ones the first.

    Blanks and repetitions of CTC stay. Raises BadInput unless one output is either.
    """
    whole = [array for array in outputs.values() if array.ndim == 2 and array.dtype.kind in "iu"]
    scores = [array for array in outputs.values() if array.ndim == 3 and array.dtype.kind == "f"]
    if len(whole) == 1:
        return whole[0].astype(np.int64)
    if len(scores) == 1 and not whole:
        best: npt.NDArray[np.int64] = np.where(np.isnan(scores[0]), -np.inf, scores[0]).argmax(axis=2).astype(np.int64)
        return best
    raise BadInput(
        f"the outputs {_shapes(outputs)} are no tokens",
        "select one output with --output: integers (batch, tokens) or scores (batch, tokens, classes)",
    )


def guess(outputs: Mapping[str, Array]) -> Task | None:
    """The task that outputs plainly belong to, by their names and shapes; None where they may mean something else."""
    try:
        found = layouts.recognise(outputs)
        if base_name(found.boxes) in layouts.BOX_NAMES:
            return Task.DETECT
    except BadInput:
        pass
    if len(outputs) != 1:
        return None
    name, array = next(iter(outputs.items()))
    return _guess_one(base_name(name), array)


def _guess_one(name: str, array: Array) -> Task | None:
    """The task of a model with a single output."""
    is_float = array.dtype.kind == "f"
    if array.ndim == 2 and is_float and array.shape[1] > 1:
        if name in _SCORE_NAMES:
            return Task.CLASSIFY
        return Task.EMBED if name in _EMBEDDING_NAMES else None
    if array.ndim == 4 and is_float and array.shape[1] > 1 and min(array.shape[2:]) > 1 and name in _MAP_NAMES:
        return Task.SEGMENT
    if array.ndim == 3 and not is_float and name in _MAP_NAMES:
        return Task.SEGMENT
    if name in _TOKEN_NAMES and ((array.ndim == 3 and is_float) or (array.ndim == 2 and array.dtype.kind in "iu")):
        return Task.TOKENS
    return None


def _matrix(outputs: Mapping[str, Array], what: str, axis: str) -> Floats:
    matrices = [array for array in outputs.values() if array.ndim == 2 and array.dtype.kind == "f"]
    if len(matrices) != 1:
        raise BadInput(
            f"the outputs {_shapes(outputs)} are no {what}",
            f"select one output of shape (batch, {axis}) with --output",
        )
    values: Floats = matrices[0].astype(np.float64)
    return values


def _shapes(outputs: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} ({', '.join(map(str, array.shape))})" for name, array in outputs.items())
