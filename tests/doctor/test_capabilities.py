"""What a machine can do follows from what it has, and a failure names what mends it."""

from __future__ import annotations

import dataclasses

import pytest

from deploytool import doctor
from deploytool.doctor import capabilities, inventory, messages, traps
from deploytool.doctor.capabilities import RUN, Capability
from deploytool.doctor.inventory import Inventory
from deploytool.doctor.providers import CPU, Provider
from deploytool.errors import BadInput
from deploytool.host import machine
from deploytool.targets import TARGETS
from tests.doctor.machines import ORIN, RTX, desk, packages, pc


def on(monkeypatch: pytest.MonkeyPatch, here: Inventory, target: str = "") -> doctor.Diagnosis:
    """A diagnosis of a machine that is not here."""
    monkeypatch.setattr(inventory, "collect", lambda: here)
    monkeypatch.setattr(machine, "gpus", lambda: here.gpus)
    monkeypatch.setattr(machine, "version", lambda name: here.version(name) or None)
    return doctor.examine(target)


def ability(shown: doctor.Diagnosis, name: str) -> Capability:
    return next(one for one in shown.abilities if one.name == name)


def test_a_desk_builds_for_what_tensorrt_rtx_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on(monkeypatch, desk(tensorrt_rtx="1.7.1"), "rtx40")
    assert shown.failure is None
    shown = on(monkeypatch, desk(tensorrt_rtx="1.7.1"), "orin")
    assert shown.failure is not None
    assert shown.failure.exit_code == 5
    assert "no engine for orin can be built here: TensorRT-RTX does not know" in str(shown.failure)
    assert shown.failure.remedy == "build it there: python -m deploytool.device build BUNDLE"


def test_an_orin_builds_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    orin = dataclasses.replace(desk(tensorrt="10.3"), processor="aarch64", gpus=(ORIN,), cuda="12.6", loads=("10",))
    assert on(monkeypatch, orin, "orin").failure is None
    assert on(monkeypatch, orin, "rtx40").failure is not None


def test_a_placeholder_builds_nothing_whatever_its_version_says(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_ = dataclasses.replace(
        pc(on_tensorrt="no library"), installed=packages({"tensorrt": "10.13-empty", "onnxruntime-gpu": "1.31.1"})
    )
    shown = on(monkeypatch, machine_, "rtx40")
    assert machine_.gpus == (RTX,)
    assert shown.failure is not None
    assert "no libnvinfer with it" in str(shown.failure)
    assert shown.failure.remedy.startswith("pip uninstall -y tensorrt,")


def test_without_a_target_the_question_is_whether_a_bundle_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on(monkeypatch, desk()).failure is None
    shown = on(monkeypatch, dataclasses.replace(desk(), providers=()))
    assert str(shown.failure) == "no bundle can be run here: ONNX Runtime is not installed"
    both = dataclasses.replace(
        desk(onnxruntime_gpu="1.31.1"), providers=(Provider(CPU, False, "it cannot be imported"),)
    )
    shown = on(monkeypatch, both)
    assert shown.failure is not None
    assert shown.failure.remedy == traps.find_traps(both)[0].mend
    assert "onnxruntime onnxruntime-gpu" in shown.failure.remedy


def test_what_is_missing_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on(monkeypatch, desk(torch="2.13.0"))
    graphs = ability(shown, "make graphs")
    assert (graphs.able, graphs.why) == (False, "safetensors, onnx, onnxscript, onnxsim not installed")
    assert graphs.mend == "pip install 'deploytool[cpu]'"
    assert ability(shown, "check signatures").mend == "pip install 'deploytool[verify]'"
    assert ability(shown, "sign").mend == "pip install 'deploytool[sign]'"
    full = on(monkeypatch, desk(**dict.fromkeys(capabilities.HOST, "1.0"), cryptography="50.0"))
    assert ability(full, "make graphs").able
    assert ability(full, "check signatures") == Capability("check signatures", True, "cryptography 50.0")
    assert ability(full, RUN) == Capability(RUN, True, CPU)


def test_a_device_is_told_what_it_runs_and_nothing_of_exporting(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(here: Inventory, target: str = "") -> set[str]:
        lines = list(messages.lines(on(monkeypatch, here, target)))
        return {line.strip().split("  ")[0] for line in lines[lines.index("What can be done here") + 1 :]}

    device, host = named(desk()), named(desk(torch="2.13"))
    assert {"run", "check signatures", "this"} <= device
    assert not {"make graphs", "sign", *TARGETS} & device
    assert {"make graphs", "sign", *TARGETS} <= host
    assert "orin" in named(desk(), "orin")


def test_a_target_that_is_none_is_bad_input() -> None:
    with pytest.raises(BadInput, match="there is no target 'orim'"):
        doctor.examine("orim")
