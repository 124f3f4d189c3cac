"""How a tree is put beside another: by links, and by copies where there are none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deploytool.host import swap


def test_where_links_cannot_be_made_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    (tmp_path / "room" / "deep").mkdir(parents=True)
    (tmp_path / "room" / "deep" / "model.onnx").write_text("graph")
    monkeypatch.setattr(os, "link", refused)
    swap.link_tree(tmp_path / "room", tmp_path / "copy")
    assert (tmp_path / "copy" / "deep" / "model.onnx").read_text() == "graph"
