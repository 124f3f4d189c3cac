"""One folder for each page, with what the pages take for granted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs import walk
from tests.docs.walk import Walk


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with all that the pages take for granted, and one with the programs; tests must not change them."""
    folder, programs = tmp_path_factory.mktemp("reader"), tmp_path_factory.mktemp("programs")
    walk.install(programs)
    walk.supply(folder, programs)
    return folder, programs


@pytest.fixture(scope="module")
def walks(prepared: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Walk]]:
    """The walk through a page, begun when it is first asked for."""
    folder, programs = prepared
    begun: dict[Path, Walk] = {}

    def begin(page: Path) -> Walk:
        if page not in begun:
            idle = () if walk.RUN in page.read_text(encoding="utf-8") else ("artifacts",)
            home = tmp_path_factory.mktemp(page.stem) / "reader"
            shutil.copytree(folder, home, ignore=shutil.ignore_patterns(*idle))
            begun[page] = Walk(page, home, programs)
        return begun[page]

    yield begin
    for each in begun.values():
        shutil.rmtree(each.folder)
