"""Items of several images: partners from folders and from CSV files, and one line for data that is incomplete."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from deploytool.data import items
from deploytool.data.labels import read as labels_read
from deploytool.errors import BadInput
from deploytool.spec import Task
from tests.data.test_image_folder import fill

PAIR = ("left", "right")


def names(found: items.Items, root: Path) -> list[tuple[str, ...]]:
    return [tuple(path.relative_to(root).as_posix() for path in item) for item in found.paths]


def table(folder: Path, text: str) -> Path:
    fill(folder, "a.png", "b.png", "far/a.jpg", "far/b.jpg")
    (folder / "items.csv").write_text(text)
    return folder / "items.csv"


def test_images_of_one_name_are_an_item_in_the_order_of_the_inputs(tmp_path: Path) -> None:
    fill(tmp_path, "left/2.png", "left/10.png", "right/10.jpg", "right/2.webp", "right/notes.txt", ".git/x.png")
    assert names(items.read(tmp_path, PAIR), tmp_path) == [
        ("left/10.png", "right/10.jpg"),
        ("left/2.png", "right/2.webp"),
    ]
    assert names(items.read(tmp_path, PAIR[::-1]), tmp_path)[0] == ("right/10.jpg", "left/10.png")


def test_folders_of_classes_below_those_of_the_inputs_give_labels(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{side}/{name}/1.png" for side in PAIR for name in ("dog", "cat")))
    found = items.read(tmp_path, PAIR)
    assert (found.classes, found.labels) == (("cat", "dog"), (0, 1))
    assert names(found, tmp_path) == [("left/cat/1.png", "right/cat/1.png"), ("left/dog/1.png", "right/dog/1.png")]


def test_a_csv_file_has_a_column_for_each_input_in_any_order(tmp_path: Path) -> None:
    found = items.read(table(tmp_path, "right,label,left\nfar/b.jpg,dog,a.png\nfar/a.jpg,cat,a.png\n"), PAIR)
    assert names(found, tmp_path) == [("a.png", "far/b.jpg"), ("a.png", "far/a.jpg")]
    assert (found.classes, found.labels) == (("cat", "dog"), (1, 0))
    counted = items.read(table(tmp_path, "\ufeffleft, right ,label\na.png,far/a.jpg,3\nb.png,far/b.jpg,0\n"), PAIR)
    assert (counted.classes, counted.labels) == ((), (3, 0))
    assert items.read(table(tmp_path, "left,right\na.png,far/a.jpg\n"), PAIR).labels == ()
    assert names(items.read(table(tmp_path, "left\nb.png\n"), ("left",)), tmp_path) == [("b.png",)]


def test_a_limit_keeps_partners_together_and_balances_the_classes(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{side}/{n % 2}/{n:02}.png" for side in PAIR for n in range(40)))
    found = items.read(tmp_path, PAIR, limit=10, seed=3)
    assert Counter(found.labels) == {0: 5, 1: 5}
    assert all(left == right.replace("right", "left") for left, right in names(found, tmp_path))
    assert found == items.read(tmp_path, PAIR, limit=10, seed=3) != items.read(tmp_path, PAIR, limit=10, seed=4)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (("left/a.png", "left/b.png", "right/a.png"), r"right has no partner of left/b.png \(2 of left and 1 of right"),
        (("left/a.png", "right/a.png", "right/c.jpg"), "left has no partner of right/c.jpg"),
        (("left/cat/a.png", "right/dog/a.png"), "right has no partner of left/cat/a.png"),
        (("left/cat/a.png", "right/a.png"), "right has no partner of left/cat/a.png"),
        (("left/a.png", "left/a.jpg", "right/a.png"), "left holds a.jpg and a.png, which would be one item"),
        (("left/a.png", "rigth/a.png"), "has no folder right, and the image inputs are left, right"),
        (("left/a.png", "right/a.png", "depth/a.png"), "has the folder depth, and the image inputs are left, right"),
        (("left/a.png", "right/a.png", "a.png"), "holds pictures such as a.png, and the inputs are left, right"),
        (("left/a.png", "left/cat/a.png", "right/a.png"), "left holds both pictures and folders"),
        (("left/a.png", "right/notes.txt"), "right holds no picture"),
        (("a.png",), "holds pictures such as a.png"),
        ((), "has no folder left"),
    ],
)
def test_incomplete_folders_are_refused_in_one_line(files: tuple[str, ...], problem: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=problem) as caught:
        items.read(fill(tmp_path, *files), PAIR)
    assert "\n" not in f"{caught.value}{caught.value.remedy}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("left,right\n", "lists no item"),
        ("left,label\na.png,cat\n", "has no column right: its columns are left, label"),
        ("left,right,lable\na.png,far/a.jpg,cat\n", "has the column lable, which is unknown"),
        ("left,right,left\na.png,far/a.jpg,b.png\n", "has the column left, which is unknown or there twice"),
        ("left,right\na.png,far/a.jpg\nb.png\n", "empty or missing column in line 3"),
        ("left,right,label\na.png,far/a.jpg,\n", "empty or missing column in line 2"),
        ("left,right\na.png,far/c.jpg\n", "names 'far/c.jpg', which is not in"),
        ("left,right\na.png,../x.png\n", "names '../x.png', which is outside"),
        ("left,right\na.png,far/a.jpg\n./a.png,far/a.jpg\n", "lists a.png, a.jpg twice"),
        ("left,right\na.png,\0\n", "."),
    ],
)
def test_an_incomplete_csv_file_is_refused_in_one_line(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=problem) as caught:
        items.read(table(tmp_path, text), PAIR)
    assert "\n" not in f"{caught.value}{caught.value.remedy}"


def test_what_is_missing_is_refused(tmp_path: Path) -> None:
    for data, problem in ((tmp_path / "no", "there is no folder"), (tmp_path / "no.csv", "cannot be read: No such")):
        with pytest.raises(BadInput, match=problem):
            items.read(data, PAIR)


def test_labels_name_the_images_of_the_first_input(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{side}/{name}.png" for side in PAIR for name in "abc"))
    labels = tmp_path / "labels.csv"
    labels.write_text("c.png,dog\na.png,cat\n")
    found = labels_read.read(tmp_path, labels, Task.CLASSIFY, (), PAIR)
    assert (found.targets, found.classes) == ((1, 0), ("cat", "dog"))
    assert [tuple(path.parent.name + path.stem for path in item) for item in found.items] == [
        ("leftc", "rightc"),
        ("lefta", "righta"),
    ]


def test_a_label_for_an_image_of_two_items_is_refused_and_a_column_is_not(tmp_path: Path) -> None:
    file = table(tmp_path, "left,right\na.png,far/a.jpg\na.png,far/b.jpg\n")
    labels = tmp_path / "labels.csv"
    labels.write_text("a.png,dog\n")
    with pytest.raises(BadInput, match=r"a\.png is in 2 items of .*items\.csv"):
        labels_read.read(file, labels, Task.CLASSIFY, (), PAIR)
    found = labels_read.read(
        table(tmp_path, "left,right,label\na.png,far/a.jpg,1\na.png,far/b.jpg,0\n"), None, None, (), PAIR
    )
    assert found.targets == (1, 0)
    assert [item[1].name for item in found.items] == ["a.jpg", "b.jpg"]
    with pytest.raises(BadInput, match="has the class 1, and the model 1 classes"):
        labels_read.read(tmp_path / "items.csv", None, None, ("only",), PAIR)


def test_the_files_of_a_table_are_those_that_it_lists(tmp_path: Path) -> None:
    file = table(tmp_path, "left,right,label\na.png,far/a.jpg,cat\na.png,far/none.jpg,\0\n")
    assert items.files(file) == (file, tmp_path / "a.png", tmp_path / "far/a.jpg")


def test_numbers_in_the_column_with_classes_are_indices(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png")
    (tmp_path / "items.csv").write_text("image,label\na.png,11.0\nb.png,2.0\n")
    assert items.read(tmp_path / "items.csv", ["image"]).labels == (11, 2)
    (tmp_path / "items.csv").write_text("image,label\na.png,0\nb.png,-1\n")
    with pytest.raises(BadInput, match="has the class -1"):
        items.read(tmp_path / "items.csv", ["image"])


def test_a_column_with_classes_of_another_model_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png")
    file = tmp_path / "items.csv"
    file.write_text("image,label\na.png,Dog\nb.png,Cat\n")
    with pytest.raises(BadInput, match="unknown class 'Dog'"):
        labels_read.read(file, None, Task.CLASSIFY, ("dog", "cat"))
    assert labels_read.read(file, None, Task.CLASSIFY, ("Dog", "Cat")).targets == (0, 1)
