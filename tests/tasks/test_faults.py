from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch

from tests.tasks import detector, effect, rounding, scenes, segmenter, train
from tests.tasks.edits import FAULTS
from tests.tasks.scenes import Split

Array = npt.NDArray[Any]
FACTORIES: Mapping[str, tuple[Callable[[], torch.nn.Module], str]] = {
    "heads": (detector.heads, "detector"),
    "detector": (detector.detector, "detector"),
    "segmenter": (segmenter.segmenter, "segmenter"),
}
PLANTED = [(model, kind) for kind, fault in FAULTS.items() for model in fault.models]
TOLERANCES = {"boxes": 1e-3, "scores": 1e-3, "logits": 1e-3}


@cache
def inputs(model: str) -> Array:
    drawn = scenes.scenes(Split.TEST, train.CONTENTS[FACTORIES[model][1]], 3)
    return train.images([train.fitted(scene)[0] for scene in drawn]).numpy()


@cache
def network(model: str) -> torch.nn.Module:
    """A model with the trained weights of this folder."""
    factory, weights = FACTORIES[model]
    net = factory()
    net.load_state_dict(safetensors.torch.load_file(Path(__file__).with_name(f"{weights}.safetensors")))
    return net.eval()


@cache
def exported(model: str) -> bytes:
    """The graph of a trained model, in FP32."""
    net, file = network(model), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is an old one, and remarks on constants
        names = list(net(torch.from_numpy(inputs(model))))
        options: dict[str, Any] = {"input_names": ["image"], "output_names": names, "opset_version": 18}
        image = torch.from_numpy(inputs(model))
        torch.onnx.export(net, (image,), file, dynamo=False, **options)  # type: ignore[arg-type]  # a stream will do
    return file.getvalue()


def answers(graph: onnx.ModelProto, model: str) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": inputs(model)}), strict=True))


@cache
def sound(model: str) -> dict[str, Array]:
    return answers(onnx.load_from_string(exported(model)), model)


@pytest.mark.parametrize(("model", "kind"), PLANTED)
def test_every_fault_changes_the_answers_of_a_valid_graph_the_more_the_stronger(model: str, kind: str) -> None:
    sizes = []
    for strength in sorted({FAULTS[kind].strengths[0], FAULTS[kind].strengths[-1]}, key=abs):
        graph = onnx.load_from_string(exported(model))
        FAULTS[kind].plant(graph, strength)
        onnx.checker.check_model(graph)
        got = answers(graph, model)
        assert {name: array.shape for name, array in got.items()} == {
            name: array.shape for name, array in sound(model).items()
        }
        sizes.append(effect.distance(got, sound(model), TOLERANCES))
    assert max(sizes) > 1
    if kind not in ("top-k cut", "score order", "class offset"):  # their strength is a place, or has no order
        assert sizes == sorted(sizes)


@pytest.mark.parametrize("model", FACTORIES)
def test_another_order_of_sums_changes_the_answers_by_rounding_alone(model: str) -> None:
    graph = onnx.load_from_string(exported(model))
    assert rounding.permute_sums(graph, np.random.default_rng(0)) >= 3
    got = answers(graph, model)
    assert any((got[name] != array).any() for name, array in sound(model).items())
    assert effect.distance(got, sound(model), dict.fromkeys(TOLERANCES, 0.0001)) < 1


def rows() -> dict[str, Array]:
    """Four boxes of one picture, of three classes."""
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 60, 10], [80, 0, 100, 10]], np.float32)
    return {"boxes": boxes[None], "scores": np.array([[0.9, 0.5, 0.4, 0.1]]), "labels": np.array([[1, 1, 2, 3]])}


def test_the_order_of_boxes_is_no_distance() -> None:
    got = {name: array[:, [1, 0, 3, 2]] for name, array in rows().items()}
    assert effect.distance(got, rows(), TOLERANCES) == 0
    assert effect.order_changes(got, rows())


def test_a_moved_box_another_score_and_another_class_are() -> None:
    moved, confident, named = rows(), rows(), rows()
    moved["boxes"][0, 1] += 0.2
    assert effect.distance(moved, rows(), TOLERANCES) == pytest.approx(2, rel=1e-4)  # 0.2 of 100 pixels, in thousandths
    confident["scores"][0, 1] += 0.0045
    assert effect.distance(confident, rows(), TOLERANCES) == pytest.approx(5, rel=1e-4)
    named["labels"][0, 0] = 2
    assert effect.distance(named, rows(), TOLERANCES) > 100


def test_a_box_may_drop_out_at_the_lowest_score_only() -> None:
    last, first = rows(), rows()
    last["boxes"][0, 3] = 5, 5, 9, 9
    first["boxes"][0, 0] = 50, 50, 90, 90
    assert effect.distance(last, rows(), TOLERANCES) == 0
    assert effect.distance(first, rows(), TOLERANCES) > 100


def test_the_detector_selects_boxes_of_cells_with_their_scores_best_first() -> None:
    with torch.inference_mode():
        image = torch.from_numpy(inputs("detector"))
        selected, cells = network("detector")(image), network("heads")(image)
    assert torch.equal(selected["scores"], selected["scores"].sort(descending=True).values)
    rows = zip(selected["boxes"].flatten(0, 1), selected["scores"].flatten(), selected["labels"].flatten(), strict=True)
    for number, (box, confidence, label) in enumerate(rows):
        picture = number // detector.TOP
        places = (cells["scores"][picture, :, label] == confidence).nonzero()[:, 0]
        assert any(torch.equal(cells["boxes"][picture, place], box) for place in places)


@pytest.mark.parametrize(("kind", "least"), [("detector", 0.7), ("segmenter", 0.7)])
def test_the_trained_models_are_useful(kind: str, least: float) -> None:
    measured = train.quality(kind, network(kind), 60)
    assert all(value > least for name, value in measured.items() if "0.75" not in name), measured
