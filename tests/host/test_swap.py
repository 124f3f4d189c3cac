"""Copies of trees by hard links, or by copies where there are none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deploytool.host import swap


def test_files_are_copied_where_hard_links_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links")

    (tmp_path / "stage" / "deep").mkdir(parents=True)
    (tmp_path / "stage" / "deep" / "model.onnx").write_text("graph")
    monkeypatch.setattr(os, "link", refuse)
    swap.link_tree(tmp_path / "stage", tmp_path / "copy")
    assert (tmp_path / "copy" / "deep" / "model.onnx").read_text() == "graph"
