"""Labels of pictures: classes and texts in CSV files, objects in COCO's format, masks; and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deploytool.data.labels import masks, read
from deploytool.errors import BadInput
from deploytool.spec import Task
from deploytool.tasks.annotations import Boxes

ORIENTATION = 0x0112


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, size in {"a.png": (40, 20), "b.png": (30, 30)}.items():
        Image.new("RGB", size, "grey").save(folder / name)
    return folder


def coco(folder: Path, **changes: Any) -> Path:
    """A file of annotations for the two pictures; `changes` replace its lists."""
    document = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "b.png"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [1, 2, 10, 5]},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 40, 20], "iscrowd": 1},
        ],
        **changes,
    }
    file = folder.parent / "annotations.json"
    file.write_text(json.dumps(document))
    return file


def table(folder: Path, text: str) -> Path:
    file = folder.parent / "labels.csv"
    file.write_text(text)
    return file


def test_objects_come_as_corners_with_classes_in_the_order_of_the_ids(pictures: Path) -> None:
    found = read.read(pictures, coco(pictures), None, ())
    assert [path.name for path in found.paths] == ["a.png", "b.png"]
    assert found.classes == ("person", "dog")
    first, second = found.targets
    assert isinstance(first, Boxes)
    assert isinstance(second, Boxes)
    np.testing.assert_array_equal(first.boxes, [[1, 2, 11, 7], [0, 0, 40, 20]])
    assert first.classes.tolist() == [1, 0]
    assert first.crowd.tolist() == [False, True]
    assert second.boxes.shape == (0, 4)


def test_categories_are_matched_with_the_classes_of_the_model_by_name(pictures: Path) -> None:
    (first, _) = read.read(pictures, coco(pictures), Task.DETECT, ("cat", "dog", "person")).targets
    assert isinstance(first, Boxes)
    assert first.classes.tolist() == [1, 2]


def test_a_box_is_measured_against_the_upright_picture(pictures: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # stored lying: 40 × 20 is shown as 20 × 40
    Image.new("RGB", (40, 20)).save(pictures / "a.png", exif=exif)
    entry = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 20, 40]}
    assert len(read.read(pictures, coco(pictures, annotations=[entry]), None, ()).targets) == 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"images": []}, "lists no picture"),
        ({"images": [{"id": 7, "file_name": "c.png"}], "annotations": []}, "'c.png', which is not in"),
        ({"images": [{"id": 7, "file_name": "../pictures/a.png"}], "annotations": []}, None),
        ({"images": [{"id": 7, "file_name": "../../a.png"}], "annotations": []}, "outside"),
        ({"images": [{"id": 7, "file_name": "a.png"}] * 2, "annotations": []}, "lists a.png twice"),
        ({"images": [{"id": i, "file_name": "a.png"} for i in (1, 2)], "annotations": []}, "lists a.png twice"),
        ({"annotations": [{"id": 1, "image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, "the picture 99"),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 1, "bbox": [30, 0, 20, 5]}]}, "5 is outside"),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 1, "bbox": [0, 0, -2, 5]}]}, "annotation 5 is"),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 2, "bbox": [0, 0, 2, 5]}]}, "unknown category 2"),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 1}]}, "lacks 'bbox'"),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 1, "bbox": [1, 2]}]}, "no file of annotations"),
        ({"annotations": "none"}, "no file of annotations"),
        ({"categories": []}, "unknown category"),
        ({"categories": [{"id": 1, "name": "dog"}, {"id": 18, "name": "dog"}]}, "a category twice"),
        ({"categories": [{"id": 18, "name": "dog"}, {"id": 18, "name": "cat"}]}, "a category twice"),
    ],
)  # fmt: skip
def test_a_wrong_file_of_annotations_is_refused_in_one_line(
    changes: dict[str, Any], problem: str | None, pictures: Path
) -> None:
    file = coco(pictures, **changes)
    if problem is None:
        read.read(pictures, file, None, ())
        return
    with pytest.raises(BadInput) as error:
        read.read(pictures, file, None, ())
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_class_of_the_model_is_refused(pictures: Path) -> None:
    with pytest.raises(BadInput, match="unknown class 'dog'"):
        read.read(pictures, coco(pictures), None, ("cat", "person"))


@pytest.mark.parametrize("head", ["", "image,label\n", "\ufeff"])
def test_a_table_has_names_or_numbers_of_classes(head: str, pictures: Path) -> None:
    named = read.read(pictures, table(pictures, f"{head}b.png,dog\na.png,cat\n"), None, ())
    assert ([path.name for path in named.paths], named.targets, named.classes) == (
        ["b.png", "a.png"],
        (1, 0),
        ("cat", "dog"),
    )
    assert read.read(pictures, table(pictures, f"{head}a.png,4\n"), Task.CLASSIFY, ()).targets == (4,)
    assert read.read(pictures, table(pictures, f"{head}a.png,dog\n"), None, ("x", "dog")).targets == (1,)


def test_numbers_of_classes_may_be_written_with_a_point(pictures: Path) -> None:
    labelled = read.read(pictures, table(pictures, "a.png,11.0\nb.png,2.0\n"), None, ())
    assert (labelled.targets, labelled.classes) == ((11, 2), ())
    assert read.read(pictures, table(pictures, "a.png,0.5\nb.png,2.0\n"), None, ()).classes == ("0.5", "2.0")


@pytest.mark.parametrize("number", ["-1", "-2.0"])
def test_a_negative_class_is_refused(number: str, pictures: Path) -> None:
    with pytest.raises(BadInput, match=f"has the class {number}, and classes are counted from 0"):
        read.read(pictures, table(pictures, f"a.png,0\nb.png,{number}\n"), None, ())


def test_a_table_of_texts_has_tokens(pictures: Path) -> None:
    assert read.read(pictures, table(pictures, 'a.png,"one, two"\n'), Task.TOKENS, ()).targets == (("one,", "two"),)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "lists no picture"),
        ("image,label\n", "lists no picture"),
        ("a.png\n", "line 1"),
        ("a.png,\n", "line 1"),
        ("a.png;cat\n", "line 1"),
        ("a.png,cat\na.png,dog\n", "two labels for a.png"),
        ("c.png,cat\n", "'c.png', which is not in"),
        ("a.png,9\n", "class 9"),
        ("a.png,mouse\n", "unknown class 'mouse'"),
        ("/etc/passwd,cat\n", "outside"),
    ],
)
def test_a_wrong_table_is_refused(text: str, problem: str, pictures: Path) -> None:
    with pytest.raises(BadInput, match=problem):
        read.read(pictures, table(pictures, text), None, ("cat", "dog"))


def test_masks_belong_to_pictures_by_their_names(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    for name, size in {"a": (40, 20), "b": (30, 30)}.items():
        Image.new("L", size, 2).save(folder / f"{name}.png")
    found = read.read(pictures, folder, None, ())
    assert [path.name for path in found.targets if isinstance(path, Path)] == ["a.png", "b.png"]
    assert masks.read(folder / "a.png").shape == (20, 40)
    (folder / "b.png").unlink()
    with pytest.raises(BadInput, match=r"no mask b\.png"):
        read.read(pictures, folder, None, ())


def test_a_palette_keeps_its_indices_and_colours_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    indexed = Image.fromarray(np.array([[0, 3], [255, 1]], np.uint8), "L").convert("P")
    indexed.putdata([0, 3, 255, 1])
    indexed.save(file)
    assert masks.read(file).tolist() == [[0, 3], [255, 1]]
    Image.new("RGB", (4, 4)).save(file)
    with pytest.raises(BadInput, match="its pixels are RGB"):
        masks.read(file)


@pytest.mark.parametrize(
    ("task", "suffix", "problem"),
    [
        (Task.DETECT, ".csv", "no labels for the task detect"),
        (Task.SEGMENT, ".json", "no labels for the task segment"),
        (Task.EMBED, ".csv", "do not belong to embeddings"),
        (None, ".txt", "no labels for the task of this model"),
    ],
)
def test_labels_of_another_task_are_refused(task: Task | None, suffix: str, problem: str, pictures: Path) -> None:
    file = pictures.parent / f"labels{suffix}"
    file.write_text("a.png,1\n")
    with pytest.raises(BadInput, match=problem):
        read.read(pictures, file, task, ())


@pytest.mark.parametrize("task", [Task.CLASSIFY, Task.DETECT, Task.SEGMENT, Task.TOKENS])
def test_a_task_without_labels_asks_for_them(task: Task, pictures: Path) -> None:
    with pytest.raises(BadInput, match="pictures without labels"):
        read.read(pictures, None, task, ())


def test_embeddings_take_pictures_alone(pictures: Path) -> None:
    assert read.read(pictures, None, Task.EMBED, ()).targets == (None, None)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"bbox": [0, 0, 10**400, 1]}, "is no file of annotations"),
        ({"image_id": float("inf")}, "is no file of annotations"),
        ({"category_id": float("inf")}, "is no file of annotations"),
        ({"bbox": [0, 0, 1000, 1000]}, "annotation without id is outside"),
        ({"category_id": 77}, "annotation without id has the unknown category 77"),
    ],
)
def test_numbers_beyond_all_and_annotations_without_id_are_refused(
    pictures: Path, annotation: dict[str, Any], message: str
) -> None:
    whole = {"image_id": 7, "category_id": 18, "bbox": [1, 2, 10, 5]}
    with pytest.raises(BadInput, match=message):
        read.read(pictures, coco(pictures, annotations=[whole | annotation]), None, ())


@pytest.mark.parametrize("name", ["a\0.png", "a" * 5000, "loop.png"])
def test_a_name_that_no_file_can_have_is_refused(pictures: Path, name: str) -> None:
    (pictures / "loop.png").symlink_to("loop.png")
    for labels in (table(pictures, f"{name},dog\n"), coco(pictures, images=[{"id": 7, "file_name": name}])):
        with pytest.raises(BadInput, match=r"names '(a|loop)") as caught:
            read.read(pictures, labels, Task.DETECT if labels.suffix == ".json" else None, ())
        assert len(str(caught.value)) < 1000


def test_two_spellings_of_one_picture_are_refused(pictures: Path) -> None:
    with pytest.raises(BadInput, match="two labels for"):
        read.read(pictures, table(pictures, "a.png,dog\n../pictures/a.png,cat\n"), None, ())
    both = [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "./a.png"}]
    with pytest.raises(BadInput, match=r"lists a.png twice"):
        read.read(pictures, coco(pictures, images=both), None, ())


def test_a_label_of_thousands_of_digits_is_a_name(pictures: Path) -> None:
    assert read.read(pictures, table(pictures, f"a.png,{'9' * 5000}\n"), None, ()).targets == (0,)


def test_masks_of_another_size_or_kind_and_pipes_are_refused_before_a_run(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    Image.new("L", (30, 30)).save(folder / "b.png")
    Image.new("L", (40, 19)).save(folder / "a.png")
    with pytest.raises(BadInput, match=r"a.png is 19 × 40, and its picture 20 × 40"):
        read.read(pictures, folder, None, ())
    Image.new("RGB", (40, 20)).save(folder / "a.png")
    with pytest.raises(BadInput, match="its pixels are RGB"):
        read.read(pictures, folder, None, ())
    (folder / "a.png").unlink()
    os.mkfifo(folder / "a.png")
    with pytest.raises(BadInput, match="it is no file"):
        read.read(pictures, folder, None, ())


def test_folders_of_which_only_some_are_classes_of_the_model_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "eel"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "a.png")
    with pytest.raises(BadInput, match="unknown class 'eel'"):
        read.read(tmp_path, None, Task.CLASSIFY, ("cat", "dog"))
