"""The tables of the devices: what they may contain, which devices are selected, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploytool.errors import BadInput
from deploytool.fleet import devices
from deploytool.transfer.addresses import Device

FILE = Path("fleet/deploytool.toml")
ONE = {"ssh": "me@orin-1", "root": "/opt/model"}
TABLES = {
    "orin-1": {**ONE, "target": "orin", "labels": ["lab", "orin"]},
    "orin-2": {**ONE, "labels": "line"},
    "pi": {**ONE, "port": 2222, "python": "/opt/bin/python", "ssh_config": "config", "identity": "key"},
}


def test_a_device_has_the_values_of_its_table() -> None:
    orin, other, pi = devices.parse(TABLES, FILE, named=True)
    assert (orin.name, orin.address, orin.target, orin.labels) == (
        "orin-1",
        Device("me@orin-1", "/opt/model"),
        "orin",
        ("lab", "orin"),
    )
    assert (other.target, other.labels, other.ssh.python) == ("", ("line",), "python3")
    assert (pi.ssh.port, pi.ssh.python) == (2222, "/opt/bin/python")
    assert (pi.ssh.config, pi.ssh.identity) == (Path("fleet/config"), Path("fleet/key"))


@pytest.mark.parametrize(
    ("names", "labels", "selected"),
    [
        ([], [], ["orin-1", "orin-2", "pi"]),
        (["pi"], [], ["pi"]),
        (["pi", "orin-1"], [], ["orin-1", "pi"]),
        ([], ["line", "orin"], ["orin-1", "orin-2"]),
        (["pi"], ["lab"], ["orin-1", "pi"]),
    ],
)
def test_devices_are_selected_by_name_or_label(names: list[str], labels: list[str], selected: list[str]) -> None:
    known = devices.parse(TABLES, FILE, named=True)
    assert [device.name for device in devices.select(known, names, labels)] == selected


def test_a_word_that_no_device_has_is_refused_with_the_closest() -> None:
    known = devices.parse(TABLES, FILE, named=True)
    with pytest.raises(BadInput, match="there is no device 'orin-3'") as refused:
        devices.select(known, ["orin-3"], [])
    assert "did you mean orin-" in refused.value.remedy
    with pytest.raises(BadInput, match="there is no label 'lap'"):
        devices.select(known, [], ["lap"])
    with pytest.raises(BadInput, match="no device is configured"):
        devices.select((), [], [])


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("me@orin", "orin is not a table"),
        ({"root": "/opt"}, "has no ssh"),
        ({"ssh": "me@orin"}, "has no root"),
        ({**ONE, "root": "opt"}, "me@orin-1:opt is not a folder on a device"),
        ({**ONE, "ssh": "-oProxyCommand=x"}, "is not a folder on a device"),
        ({**ONE, "ssh": 3}, "ssh = 3 is not a string"),
        ({**ONE, "target": "orion"}, "there is no target 'orion'"),
        ({**ONE, "labels": [1]}, "is not a list of words"),
        ({**ONE, "port": 0}, "port = 0 is no port"),
        ({**ONE, "port": True}, "port = True is no port"),
        ({**ONE, "lables": ["lab"]}, "has no option lables"),
    ],
)
def test_a_table_that_describes_no_device_is_refused(table: object, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        devices.parse({"orin": table}, FILE, named=True)


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a b", "-o"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="has a name that is no file name"):
        devices.parse({name: ONE}, FILE, named=True)


@pytest.mark.parametrize("key", ["python", "identity", "ssh-config", "ssh_config"])
def test_what_lowers_safety_needs_a_file_that_was_named(key: str) -> None:
    with pytest.raises(BadInput, match="lowers safety, and the file was not given with --config"):
        devices.parse({"orin": {**ONE, key: "x"}}, FILE, named=False)
    assert devices.parse({"orin": ONE}, FILE, named=False)
    with pytest.raises(BadInput, match="devices is not a table"):
        devices.parse([1], FILE, named=False)
