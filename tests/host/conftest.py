from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from deploytool.host import control_groups as groups


@pytest.fixture
def control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], None]:
    """Makes this process one of the group `above/inner`, whose files, by path and text, are all that is there."""

    def make(files: Mapping[str, str]) -> None:
        for name, text in files.items():
            file = tmp_path / "mount" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        kinds = {name.partition("/")[0] for name in files} - {"above", "cpu.max"}
        lines = [f"{index}:{kind},other:/above/inner" for index, kind in enumerate(sorted(kinds), 1)]
        (tmp_path / "cgroup").write_text("\n".join([*lines, "0::/above/inner", ""]))
        monkeypatch.setattr(groups, "_PROCESS", tmp_path / "cgroup")
        monkeypatch.setattr(groups, "_MOUNT", tmp_path / "mount")

    return make
