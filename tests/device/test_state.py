"""The state of a device: what is installed under a root, its software, and its clocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploytool import releases, serde
from deploytool.device import commands, install, state
from deploytool.device.install import Pointer
from deploytool.device.state import DeviceState
from deploytool.errors import BadInput
from deploytool.host import machine


def test_the_state_says_what_is_installed_and_decodes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        releases, "installed", lambda: next(each for each in releases.RELEASES if each.jetpack == "6.1")
    )
    (tmp_path / "current").write_text(serde.text(Pointer("a" * 64, "b" * 64, 3)))
    output = commands.status(tmp_path)
    assert isinstance(output.document, DeviceState)
    assert output.lines[-1] == f"{tmp_path}: current {'a' * 12}, previous {'b' * 12}"
    assert "JetPack 6.1" in output.lines[0]
    again = serde.decode(DeviceState, serde.loads(serde.text(output.document)))
    assert again == output.document
    assert again.pointer == install.read_pointer(tmp_path)
    assert again.environment.onnxruntime == machine.version("onnxruntime")


def test_an_empty_root_is_a_state_and_a_damaged_pointer_is_an_error(tmp_path: Path) -> None:
    assert state.read(None).pointer is None
    assert commands.status(tmp_path).lines[-1] == f"nothing is installed in {tmp_path}"
    (tmp_path / "current").write_text("{")
    with pytest.raises(BadInput, match="is damaged"):
        commands.status(tmp_path)
