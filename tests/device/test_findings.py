"""`run` says what a model found by its task, in pixels of the picture, and draws it without replacing any picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import deploytool
from deploytool import serde
from deploytool.bundle.manifest import content_digest, read_manifest, write_manifest
from deploytool.cli import params
from deploytool.data import drawing, images
from deploytool.device import commands, drawings, findings, messages, worker
from deploytool.device.candidates import Candidate, Tier
from deploytool.device.findings import Findings
from deploytool.device.worker import Request
from deploytool.errors import BadInput, Refused
from deploytool.loading import catalog
from deploytool.spec import Decoding, Precision, Preprocessing, Task, Tensor
from deploytool.tasks import detections
from deploytool.tasks.detections import Detections
from deploytool.tasks.objects import Box
from tests.conftest import ROOT

Array = npt.NDArray[Any]
MAPS = ROOT / "tests" / "user_models" / "input_dtypes.py"
NAMES = ("cat", "dog", "crane")
LETTERBOX = Preprocessing(resize=(32, 64), crop=(32, 64), fit="letterbox", interpolation="nearest")
FOUND = Detections(
    np.array([[0, 8, 64, 24], [8, 12, 24, 20], [10, 0, 20, 6], [0, 9, 8, 30]], float),
    np.array([0.9, 0.8, 0.7, 0.1]),
    np.array([1, 0, 2, 7]),
)  # in a picture of 40 × 160, which lies in rows 8 … 24; the third is in the padding


@pytest.fixture
def told(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Findings]:
    """A function that answers for pictures with a model that gives certain outputs."""
    manifest = replace(read_manifest(packed), preprocessing=LETTERBOX, classes=NAMES)
    manifest = replace(manifest, inputs=(Tensor("input", ("batch", 3, 32, 64)),))
    candidate = Candidate(Tier.ORT_CPU, "", 0, "", "onnxruntime", "cpu", "", Precision.FP32, Precision.FP32)

    def answer(
        outputs: Mapping[str, Array], task: Task | None, *pictures: Path, draw: Path | None = None, **changes: Any
    ) -> Findings:
        @contextmanager
        def opened(_: Candidate) -> Iterator[Callable[..., Mapping[str, Array]]]:
            yield lambda **inputs: {name: array[None] for name, array in outputs.items()}

        monkeypatch.setattr(worker, "open_candidate", opened)
        described = replace(manifest, task=task, **changes)
        out = str(draw) if draw else ""
        paths = tuple(map(str, pictures))
        request = Request("answer", "", described, candidate, "", pictures=paths, min_score=0.25, out=out)
        return serde.decode(Findings, json.loads(serde.text(worker._answer(request).findings)))

    return answer


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(outputs: Mapping[str, Array], how: Decoding, size: tuple[int, int]) -> list[Detections]:
        assert size == (32, 64)
        assert how.boxes == "cxcywh"
        return [FOUND] * len(outputs["heads"])

    monkeypatch.setattr(detections, "decode", decode)


def saved(path: Path, height: int = 40, width: int = 160) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(height)
    Image.fromarray(rng.integers(0, 90, (height, width, 3), np.uint8)).save(path)
    return path


DETECT = ({"heads": np.zeros((3, 4), np.float32)}, Task.DETECT)


@pytest.mark.usefixtures("detector")
def test_boxes_are_in_pixels_of_the_picture_with_names(told: Callable[..., Findings], tmp_path: Path) -> None:
    found = told(*DETECT, saved(tmp_path / "a.png"), decoding=Decoding(boxes="cxcywh"))
    (objects,) = found.objects
    assert objects.size == (40, 160)
    assert objects.boxes == (
        Box(1, "dog", 0.9, (0.0, 0.0, 160.0, 40.0)),
        Box(0, "cat", 0.8, (20.0, 10.0, 60.0, 30.0)),
    )
    assert objects.below == 1
    assert not objects.drawing
    assert list(messages.run_lines("ORT CPU", found)) == [
        "by ORT CPU",
        f"{tmp_path / 'a.png'}: 2 objects in 40 × 160 pixels, 1 more below the lowest score",
        "  1 dog (0.9): 0.0, 0.0 to 160.0, 40.0",
        "  0 cat (0.8): 20.0, 10.0 to 60.0, 30.0",
    ]


@pytest.mark.usefixtures("detector")
def test_pictures_of_one_name_have_two_drawings_and_stay_as_they_are(
    told: Callable[..., Findings], tmp_path: Path
) -> None:
    pictures = [saved(tmp_path / "x" / "a.png"), saved(tmp_path / "y" / "a.png", 50)]
    before = [path.read_bytes() for path in pictures]
    decoding = Decoding(boxes="cxcywh")
    drawn = [Path(each.drawing) for each in told(*DETECT, *pictures, draw=tmp_path / "x", decoding=decoding).objects]
    assert len({*drawn, *pictures}) == 4
    assert [path.read_bytes() for path in pictures] == before
    again = told(*DETECT, pictures[1], draw=tmp_path / "x", decoding=decoding).objects[0].drawing
    assert Path(again) == drawn[1]
    assert sorted((tmp_path / "x").iterdir()) == sorted([*drawn, pictures[0]])


@pytest.mark.parametrize(("height", "width"), [(40, 160), (64, 48), (1200, 900)])
def test_the_frame_of_a_box_is_drawn_at_its_corners(height: int, width: int) -> None:
    pixels = np.full((height, width, 3), 10, np.uint8)
    box = Box(1, "", 0.5, (width * 0.25, height * 0.5, width * 0.75, float(height)))
    image = np.asarray(drawing.boxes(pixels, (box,))).astype(int)
    factor = image.shape[0] // height
    assert image.shape == (height * factor, width * factor, 3)
    assert min(image.shape[:2]) >= 192
    below_label = image[round(height * factor * 0.7) :]
    columns = np.flatnonzero((np.abs(below_label - drawing.colour(1)).max(axis=2) == 0).all(axis=0))
    line = (columns.max() - columns.min() + 1 - len(set(range(columns.min(), columns.max() + 1)) - {*columns})) // 2
    assert abs(columns.min() - round(width * 0.25 * factor)) <= 1
    assert abs(columns.max() + 1 - round(width * 0.75 * factor)) <= 1
    assert 2 <= line <= max(2, min(image.shape[:2]) // 100)


def test_a_label_is_inside_the_picture_for_a_box_at_any_edge() -> None:
    pixels = np.zeros((400, 500, 3), np.uint8)
    for corners in ((0, 0, 30, 30), (480, 0, 500, 20), (480, 385, 500, 400), (0, 385, 9, 400)):
        box = Box(3, "a name of some length", 0.99, tuple(map(float, corners)))  # type: ignore[arg-type]
        image = np.asarray(drawing.boxes(pixels, (box,)))
        coloured = np.abs(image.astype(int) - drawing.colour(3)).max(axis=2) == 0
        assert coloured.sum() > 1500  # a frame alone has at most 4 × 30 × 2
        assert image.shape == (400, 500, 3)


def test_neighbouring_classes_have_different_colours() -> None:
    colours = np.array([drawing.colour(index) for index in range(12)])
    distances = np.abs(colours[:, None] - colours).sum(axis=2) + 999 * np.eye(12, dtype=int)
    assert distances.min() > 60


@pytest.mark.parametrize("kind", ["scores", "indices", "one plane"])
def test_areas_are_shares_of_the_pictures_pixels(kind: str, told: Callable[..., Findings], tmp_path: Path) -> None:
    classes = np.full((16, 32), 2)  # the padding has class 2, the picture 0 in its left quarter and 1 elsewhere
    classes[4:12] = 1
    classes[4:12, :8] = 0
    outputs = {
        "scores": np.stack([classes == index for index in range(3)]).astype(np.float32),
        "indices": classes.astype(np.uint8),
        "one plane": classes[None].astype(np.int64),
    }
    picture = saved(tmp_path / "a.png")
    other = {"norms": np.ones(7, np.float32), kind: outputs[kind]}
    found = told(other, Task.SEGMENT, picture, draw=tmp_path)
    (areas,) = found.areas
    assert (areas.output, areas.size, areas.seen) == (kind, (40, 160), 1.0)
    assert [(share.index, share.name, share.share) for share in areas.shares] == [(1, "dog", 0.75), (0, "cat", 0.25)]
    before, after = (images.read(Path(path)).astype(int) for path in (picture, areas.drawing))
    for columns, index in ((slice(0, 40), 0), (slice(40, 160), 1)):
        assert np.abs(2 * after[:, columns] - before[:, columns] - drawing.colour(index)).max() <= 1
    lines = list(messages.run_lines("ORT CPU", found))[1:]
    tints = ["#{:02x}{:02x}{:02x}".format(*drawing.colour(index)) for index in (1, 0)]
    shares = [f"  1 dog: 75.00%, drawn as {tints[0]}", f"  0 cat: 25.00%, drawn as {tints[1]}"]
    assert lines[1:] == [*shares, f"  drawn in {areas.drawing}"]


def test_what_a_crop_cuts_off_has_no_class_and_is_not_tinted(told: Callable[..., Findings], tmp_path: Path) -> None:
    cropped = Preprocessing(resize=(32, 128), crop=(32, 64), interpolation="nearest")
    picture = saved(tmp_path / "a.png", 32, 128)
    found = told({"map": np.zeros((32, 64), np.int32)}, Task.SEGMENT, picture, draw=tmp_path, preprocessing=cropped)
    (areas,) = found.areas
    assert areas.seen == 0.5
    assert [share.share for share in areas.shares] == [1.0]
    assert "of which the model saw 50.0%" in list(messages.run_lines("ORT CPU", found))[1]
    before, after = (images.read(Path(path)).astype(int) for path in (picture, areas.drawing))
    changed = (before != after).any(axis=2)
    assert changed[:, 32:96].mean() > 0.99
    assert not changed[:, :32].any()
    assert not changed[:, 96:].any()


def test_tokens_and_embeddings(told: Callable[..., Findings], tmp_path: Path) -> None:
    picture = saved(tmp_path / "a.png")
    scores = np.eye(4, dtype=np.float32)[[2, 0, 3, 1]]
    for output in (np.array([2, 0, 3, 1], np.int32), scores):
        found = told({"tokens": output}, Task.TOKENS, picture)
        assert found.sequences[0].tokens == (2, 0, 3, 1)
        assert list(messages.run_lines("", found))[1:] == [f"{picture}: crane cat 3 dog"]
    found = told({"embedding": np.array([[3, 4]], np.float16)}, Task.EMBED, picture)
    assert list(messages.run_lines("", found))[1:] == [f"{picture}: embedding is 1 × 2, norm 5"]


@pytest.mark.parametrize("task", [None, Task.CLASSIFY])
def test_without_a_task_the_best_classes_are_named(
    task: Task | None, told: Callable[..., Findings], tmp_path: Path
) -> None:
    found = told({"logits": np.array([1, 3, 2], np.float32)}, task, saved(tmp_path / "a.png"))
    assert found.guesses[0].names == ("dog", "crane", "cat")


def test_outputs_that_are_not_those_of_the_task_are_refused(told: Callable[..., Findings], tmp_path: Path) -> None:
    picture = saved(tmp_path / "a.png")
    cases = [
        (Task.SEGMENT, np.zeros(32, np.float32), "holds no classes"),
        (Task.SEGMENT, np.full((2, 16, 32), np.nan, np.float32), "is not finite"),
        (Task.TOKENS, np.zeros((2, 3, 4), np.int64), "are no tokens"),
        (Task.EMBED, np.array([np.inf], np.float32), "is not finite"),
    ]
    for task, output, problem in cases:
        with pytest.raises(BadInput, match=problem) as refused:
            told({"out": output}, task, picture)
        assert "\n" not in f"{refused.value}{refused.value.remedy}"


def test_a_drawing_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("deploytool.host.files.os.fsync", fail)
    with pytest.raises(BadInput, match="cannot be written: Permission denied"):
        drawings.save(Image.new("RGB", (9, 9)), tmp_path, ["a.png"])
    assert not [*tmp_path.iterdir()]


def test_a_long_name_of_a_picture_has_a_drawing(tmp_path: Path) -> None:
    names = [f"{'x' * 240}{number}.png" for number in range(2)]
    drawn = {drawings.save(Image.new("RGB", (9, 9)), tmp_path, [name]) for name in names}
    assert len(drawn) == len([*tmp_path.iterdir()]) == 2


def test_only_boxes_and_areas_can_be_drawn(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="which --draw draws"):
        commands.run(packed, [packed / "golden" / "case_0.png"], top=5, draw=tmp_path / "drawn")
    assert not (tmp_path / "drawn").exists()
    assert [task for task in (None, *Task) if findings.drawable(task)] == [Task.DETECT, Task.SEGMENT]


@pytest.mark.integration
def test_task_and_letterbox_reach_the_bundle_and_the_device(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    pictures = [saved(tmp_path / "pictures" / f"{number}.png", 60 + number, 90) for number in range(3)]
    model = replace(catalog.find(f"{MAPS}:Maps", params.tensors(["3x32x48"])), task=Task.SEGMENT)
    run = deploytool.export(
        model,
        fit="letterbox",
        interpolation="opencv",
        mean=0,
        std=1,
        classes=("near", "far"),
        data=tmp_path / "pictures",
        quick=True,
        pack=True,
        out=tmp_path / "run",
    ).check()
    assert run.bundle is not None
    manifest = read_manifest(run.bundle)
    assert (manifest.task, manifest.preprocessing.fit, manifest.preprocessing.pad) == (Task.SEGMENT, "letterbox", 114)
    result = commands.run(run.bundle, pictures, top=5, draw=tmp_path / "drawn")
    assert isinstance(result.document, commands.RunResult)
    for picture, areas in zip(pictures, result.document.areas, strict=True):
        assert sum(share.share for share in areas.shares) == pytest.approx(1)
        assert {share.name for share in areas.shares} <= {"near", "far"}
        assert images.read(Path(areas.drawing)).shape == images.read(picture).shape


def test_new_fields_of_a_manifest_are_written_only_where_they_say_something(packed: Path, tmp_path: Path) -> None:
    """Bundles without them are those of earlier versions, byte for byte; a value has one representation."""
    plain = json.loads((packed / "manifest.json").read_text())
    assert not {"task", "decoding"} & set(plain)
    assert not {"fit", "pad"} & set(plain["preprocessing"])
    manifest = read_manifest(packed)
    told = replace(manifest, task=Task.DETECT, decoding=Decoding(nms=0.5), preprocessing=LETTERBOX)
    write_manifest(tmp_path, told)
    assert read_manifest(tmp_path) == told
    assert content_digest(told) != content_digest(manifest)
    plain["preprocessing"]["fit"] = "crop"
    (tmp_path / "manifest.json").write_text(serde.text(plain))
    with pytest.raises(Refused, match="canonical form"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("boxes", "yxyx"), ("activation", "tanh"), ("background", "middle"), ("top", 0)),
        *(("threshold", -0.1), ("threshold", 1.5), ("nms", 2.0), ("top", 1 << 31)),
    ],
)
def test_an_invalid_decoding_is_refused(field: str, value: Any, packed: Path, tmp_path: Path) -> None:
    manifest = read_manifest(packed)
    write_manifest(tmp_path, replace(manifest, decoding=replace(manifest.decoding, **{field: value})))
    with pytest.raises(Refused, match="its decoding of boxes is invalid"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("changes", [{"fit": "stretch"}, {"pad": 256}, {"pad": -1}, {"resize": 0}])
def test_an_invalid_fit_is_refused(changes: dict[str, Any], packed: Path, tmp_path: Path) -> None:
    manifest = read_manifest(packed)
    write_manifest(tmp_path, replace(manifest, preprocessing=replace(LETTERBOX, **changes)))
    with pytest.raises(Refused, match="its preprocessing is invalid"):
        read_manifest(tmp_path)
