"""Fixtures that run the code blocks of each page in a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs import walk
from tests.docs.walk import Walk


@pytest.fixture(scope="module")
def prepared(warmed: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with the files that the pages need, and one with the programs; tests must not change them."""
    folder, programs = tmp_path_factory.mktemp("reader"), tmp_path_factory.mktemp("programs")
    walk.install(programs, warmed)
    walk.supply(folder, programs)
    return folder, programs


@pytest.fixture(scope="module")
def walks(prepared: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Walk]]:
    """A function that returns the walk through a page, created on first use."""
    folder, programs = prepared
    walks: dict[Path, Walk] = {}

    def walk_of(page: Path) -> Walk:
        if page not in walks:
            text = page.read_text(encoding="utf-8")
            needed = {walk.RUN: walk.RUN, walk.QUICK_RUN: Path(walk.QUICK_RUN).name}  # if the page has these words
            unneeded = [Path(run).name for run, words in needed.items() if words not in text]
            home = tmp_path_factory.mktemp(page.stem) / "reader"
            shutil.copytree(folder, home, ignore=shutil.ignore_patterns(*unneeded))
            walks[page] = Walk(page, home, programs)
        return walks[page]

    yield walk_of
    for page_walk in walks.values():
        shutil.rmtree(page_walk.folder)
