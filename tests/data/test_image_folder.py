"""Image folders: labels from sorted names, one subset per seed, and a one-line message for an invalid folder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from deploytool.data import image_folder
from deploytool.errors import BadInput


def fill(folder: Path, *names: str) -> Path:
    """A folder with empty files: no test here reads an image."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    found = image_folder.read(fill(tmp_path, "b.PNG", "a.jpg", "notes.txt", ".hidden.png"))
    assert found == image_folder.Folder((tmp_path / "a.jpg", tmp_path / "b.PNG"))


def test_labels_follow_the_sorted_names_of_the_classes(tmp_path: Path) -> None:
    fill(tmp_path, "zebra/2.png", "ant/9.png", "zebra/10.png", "Bee/1.jpeg", ".git/x.png", "readme.md")
    found = image_folder.read(tmp_path)
    assert found.classes == ("Bee", "ant", "zebra")
    assert found.labels == (0, 1, 2, 2)
    assert [path.relative_to(tmp_path).as_posix() for path in found.paths] == [
        *("Bee/1.jpeg", "ant/9.png", "zebra/10.png", "zebra/2.png")
    ]


def test_a_limit_balances_the_classes(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{name}/{i:03}.png" for name, count in {"a": 50, "b": 20, "c": 2}.items() for i in range(count)))
    assert Counter(image_folder.read(tmp_path, limit=14).labels) == {0: 6, 1: 6, 2: 2}
    assert Counter(image_folder.read(tmp_path, limit=6).labels) == {0: 2, 1: 2, 2: 2}
    assert len(image_folder.read(tmp_path, limit=2).paths) == 2
    assert image_folder.read(tmp_path, limit=1000) == image_folder.read(tmp_path)


def test_a_subset_follows_the_seed_and_stays_sorted(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{i:03}.png" for i in range(100)))
    chosen = image_folder.read(tmp_path, limit=10, seed=1)
    assert chosen == image_folder.read(tmp_path, limit=10, seed=1)
    assert chosen != image_folder.read(tmp_path, limit=10, seed=2)
    assert list(chosen.paths) == sorted(chosen.paths)
    assert (chosen.labels, chosen.classes) == ((), ())


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ((), "holds no picture"),
        (("notes.txt",), "holds no picture"),
        (("a.png", "cats/b.png"), "holds both pictures and folders, such as a.png and cats"),
        (("cats/a.png", "dogs/notes.txt"), "dogs is not the folder of a class: it holds no picture"),
        (("cats/a.png", "dogs/old/b.png"), "dogs is not the folder of a class: it holds the folder old"),
    ],
    ids=["empty", "no picture", "mixed", "an empty class", "too deep"],
)
def test_an_invalid_folder_is_refused(names: tuple[str, ...], problem: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=problem):
        image_folder.read(fill(tmp_path, *names))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no folder .*nowhere"):
        image_folder.read(tmp_path / "nowhere")
