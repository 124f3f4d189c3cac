"""The devices of a fleet: the tables [devices.NAME] of the configuration file, selected by name or label."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploytool.errors import BadInput
from deploytool.targets import TARGETS
from deploytool.transfer import addresses
from deploytool.transfer.addresses import Device
from deploytool.transfer.ssh import SshTarget

TABLE = "devices"
_KEYS = ("ssh", "root", "target", "labels", "port", "python", "identity", "ssh-config")
_UNSAFE = ("python", "identity", "ssh-config")  # they run a program, here or there, or send another key
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_EXAMPLE = '[devices.orin-1], then ssh = "me@orin-1" and root = "/opt/model"'
_CONNECT_S = 10


@dataclass(frozen=True)
class FleetDevice:
    """A device: its name, its address with the install root, how ssh reaches it, its target and its labels.

    `target` is a name of `deploytool targets`, empty if bundles are sent with the engines of all targets.
    """

    name: str
    address: Device
    ssh: SshTarget
    target: str = ""
    labels: tuple[str, ...] = ()


def parse(tables: object, file: Path, *, named: bool) -> tuple[FleetDevice, ...]:
    """The devices of a configuration file, in its order; `named` says that the file was given with --config.

    Raises BadInput for a table that describes no device, and for a key that lowers safety in a file that was found.
    """
    if not isinstance(tables, Mapping):
        raise BadInput(f"{file}: {TABLE} is not a table", f"write {_EXAMPLE}")
    return tuple(_device(name, table, file, named=named) for name, table in tables.items())


def select(devices: Sequence[FleetDevice], names: Sequence[str], labels: Sequence[str]) -> tuple[FleetDevice, ...]:
    """The devices with one of the names or one of the labels, in their order; all if neither is given.

    Raises BadInput for a name or label that no device has, and if there are no devices.
    """
    if not devices:
        raise BadInput("no device is configured", f"write into deploytool.toml: {_EXAMPLE}")
    for kind, wanted, known in (
        ("device", names, [device.name for device in devices]),
        ("label", labels, [label for device in devices for label in device.labels]),
    ):
        for word in wanted:
            if word not in known:
                raise BadInput(f"there is no {kind} {word!r}", _closest(word, known))
    if not names and not labels:
        return tuple(devices)
    return tuple(device for device in devices if device.name in names or set(labels) & set(device.labels))


def canaries(chosen: Sequence[FleetDevice], names: Sequence[str]) -> tuple[str, ...]:
    """The names without repetitions; raises BadInput for one that no chosen device has."""
    known = [device.name for device in chosen]
    for name in names:
        if name not in known:
            raise BadInput(f"--canary {name} is not among the devices of this rollout", _closest(name, known))
    return tuple(dict.fromkeys(names))


def _device(name: str, table: object, file: Path, *, named: bool) -> FleetDevice:
    where = f"{file}: [{TABLE}.{name}]"
    if not _NAME.fullmatch(name):
        raise BadInput(f"{where} has a name that is no file name", "use letters, digits, and . _ - within it")
    if not isinstance(table, Mapping):
        raise BadInput(f"{file}: {TABLE}.{name} is not a table", f"write {_EXAMPLE}")
    given = {key.replace("_", "-"): value for key, value in table.items()}
    for key in given:
        if key not in _KEYS:
            raise BadInput(f"{where} has no option {key}", _closest(key, _KEYS))
        if key in _UNSAFE and not named:
            problem = f"{where} {key} lowers safety, and the file was not given with --config"
            raise BadInput(problem, f"give --config {file}")
    host, root = _text(given, "ssh", where), _text(given, "root", where)
    if not host or not root:
        raise BadInput(f"{where} has no {'root' if host else 'ssh'}", f"write {_EXAMPLE}")
    target = _text(given, "target", where)
    if target and target not in TARGETS:
        raise BadInput(f"{where}: there is no target {target!r}", _closest(target, TARGETS))
    try:
        address = addresses.parse_device(f"{host}:{root}")
    except BadInput as error:
        raise BadInput(f"{where}: {error}", f"write {_EXAMPLE}") from None
    return FleetDevice(name, address, _ssh(given, where, file.parent), target, _labels(given, where))


def _ssh(given: Mapping[str, Any], where: str, folder: Path) -> SshTarget:
    port = given.get("port")
    if port is not None and (type(port) is not int or not 1 <= port <= 65535):
        raise BadInput(f"{where} port = {port!r} is no port", "write a number from 1 to 65535")
    identity, config = (_text(given, key, where) for key in ("identity", "ssh-config"))
    return SshTarget(
        port,
        folder / Path(identity).expanduser() if identity else None,
        folder / Path(config).expanduser() if config else None,
        _text(given, "python", where) or SshTarget.python,
        _CONNECT_S,
    )


def _labels(given: Mapping[str, Any], where: str) -> tuple[str, ...]:
    labels = given.get("labels", [])
    labels = [labels] if isinstance(labels, str) else labels
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        raise BadInput(f"{where} labels = {labels!r} is not a list of words", 'write labels = ["lab", "orin"]')
    return tuple(labels)


def _text(given: Mapping[str, Any], key: str, where: str) -> str:
    value = given.get(key, "")
    if not isinstance(value, str):
        raise BadInput(f"{where} {key} = {value!r} is not a string", f'write {key} = "…"')
    return value


def _closest(word: str, known: Iterable[str]) -> str:
    names = list(dict.fromkeys(known))
    close = difflib.get_close_matches(word, names, 1)
    if not names:
        return "no device has any"
    return f"did you mean {close[0]}?" if close else f"choose from {', '.join(names)}"
