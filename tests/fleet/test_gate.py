"""Canaries go first, by number or by name, and the others wait for all of them."""

from __future__ import annotations

import threading

import pytest

from deploytool.errors import BadInput
from deploytool.fleet import devices
from deploytool.fleet.devices import FleetDevice
from deploytool.fleet.gate import Gate
from deploytool.transfer.addresses import Device
from deploytool.transfer.ssh import SshTarget


def admitted_after(gate: Gate, name: str) -> tuple[threading.Thread, list[bool | None]]:
    """A device that waits at the gate, and what the gate says in the end."""
    answers: list[bool | None] = []
    waiting = threading.Thread(target=lambda: answers.append(gate.admit(name)), daemon=True)
    waiting.start()
    waiting.join(0.05)
    return waiting, answers


def test_without_canaries_all_are_admitted() -> None:
    assert [Gate(0).admit(name) for name in ("a", "b")] == [False, False]


def test_the_first_that_come_are_canaries() -> None:
    gate = Gate(1)
    assert gate.admit("b") is True
    waiting, answers = admitted_after(gate, "a")
    assert not answers
    gate.leave("c", proved=False)  # it was refused before it came
    gate.leave("b", proved=True)
    waiting.join(10)
    assert (answers, gate.failed) == ([False], "")


def test_named_canaries_go_first_however_late_they_come() -> None:
    gate = Gate(0, ["b", "c"])
    waiting, answers = admitted_after(gate, "a")
    assert [gate.admit(name) for name in ("c", "b")] == [True, True]
    gate.leave("b", proved=True)
    waiting.join(0.05)
    assert not answers
    gate.leave("c", proved=True)
    waiting.join(10)
    assert answers == [False]


def test_a_named_canary_that_never_comes_stops_the_others() -> None:
    gate = Gate(0, ["b"])
    waiting, answers = admitted_after(gate, "a")
    gate.leave("b", proved=False)  # it could not be reached, or was refused
    waiting.join(10)
    assert (answers, gate.failed, gate.admit("b")) == ([None], "b", None)


def test_canaries_are_devices_of_the_rollout() -> None:
    chosen = [FleetDevice(name, Device("host", "/opt/model"), SshTarget()) for name in ("orin-1", "orin-2")]
    assert devices.canaries(chosen, ["orin-2", "orin-2"]) == ("orin-2",)
    with pytest.raises(BadInput, match="--canary orin-3 is not among the devices of this rollout") as raised:
        devices.canaries(chosen, ["orin-1", "orin-3"])
    assert raised.value.remedy == "did you mean orin-2?"
