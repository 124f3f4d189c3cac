"""What the outputs of a model are taken for, by their names and shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deploytool.loading import output_task
from deploytool.spec import Decoding, Model, Task, Tensor

ROWS = (
    Tensor("boxes", ("batch", 30, 4)),
    Tensor("scores", ("batch", 30)),
    Tensor("labels", ("batch", 30), "int64"),
)
QUERIES = (Tensor("logits", ("batch", 100, 92)), Tensor("pred_boxes", ("batch", 100, 4)))
HEADS = (Tensor("output0", ("batch", 84, 8400)),)
MAPS = (Tensor("logits", ("batch", 21, 64, 64)),)
SCORES = (Tensor("logits", ("batch", 10)),)


def model(outputs: tuple[Tensor, ...], task: Task | None = None) -> Model:
    return Model("m", "m.py:m", outputs=outputs, task=task)


@pytest.mark.parametrize(
    ("outputs", "task"),
    [(ROWS, Task.DETECT), (QUERIES, Task.DETECT), (MAPS, Task.SEGMENT), (SCORES, None), (HEADS, None)],
)
def test_a_task_is_told_where_it_is_plain_and_said_in_a_remark(outputs: tuple[Tensor, ...], task: Task | None) -> None:
    settled, remarks = output_task.settle(model(outputs))
    assert settled.task is task
    assert len(remarks) == (task is not None)
    assert all("--task says otherwise" in remark for remark in remarks)


def test_a_stated_task_is_not_guessed_away() -> None:
    settled, remarks = output_task.settle(model(MAPS, Task.EMBED))
    assert (settled.task, remarks) == (Task.EMBED, ())


@pytest.mark.parametrize(
    ("outputs", "usual"),
    [
        (ROWS, Decoding()),
        (QUERIES, Decoding(boxes="cxcywh", normalised=True, activation="softmax", background="last")),
        (HEADS, Decoding(boxes="cxcywh", nms=0.7)),
    ],
)
def test_boxes_are_decoded_as_such_outputs_usually_are(outputs: tuple[Tensor, ...], usual: Decoding) -> None:
    assert output_task.settle(model(outputs, Task.DETECT))[0].decoding == usual


def test_a_stated_field_of_the_decoding_stays_and_the_others_are_usual() -> None:
    stated = replace(model(HEADS, Task.DETECT), decoding=Decoding(nms=0.6), asked=("--decode nms",))
    assert output_task.settle(stated)[0].decoding == Decoding(boxes="cxcywh", nms=0.6)


def test_outputs_of_no_known_form_keep_what_was_stated() -> None:
    stated = replace(model(SCORES, Task.DETECT), decoding=Decoding(top=7), asked=("--decode top",))
    assert output_task.settle(stated)[0].decoding == Decoding(top=7)
