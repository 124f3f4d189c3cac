"""Capabilities follow from the inventory, and a failure has a remedy."""

from __future__ import annotations

import dataclasses

import pytest

from deploytool.doctor import capabilities, inventory, messages, traps
from deploytool.doctor.capabilities import RUN, Capability
from deploytool.doctor.diagnosis import Diagnosis, examine
from deploytool.doctor.inventory import Inventory
from deploytool.doctor.providers import CPU, Provider
from deploytool.errors import BadInput
from deploytool.host import machine
from deploytool.targets import TARGETS
from tests.doctor.machines import ORIN, RTX, cpu_machine, gpu_machine, packages


def diagnose(monkeypatch: pytest.MonkeyPatch, machine_inventory: Inventory, target: str = "") -> Diagnosis:
    """The diagnosis of an example machine."""
    monkeypatch.setattr(inventory, "collect", lambda: machine_inventory)
    monkeypatch.setattr(machine, "gpus", lambda: machine_inventory.gpus)
    monkeypatch.setattr(machine, "version", lambda name: machine_inventory.version(name) or None)
    return examine(target)


def capability(diagnosis: Diagnosis, name: str) -> Capability:
    return next(item for item in diagnosis.capabilities if item.name == name)


def test_a_machine_with_tensorrt_rtx_builds_for_the_gpus_that_it_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = diagnose(monkeypatch, cpu_machine(tensorrt_rtx="1.7.1"), "rtx40")
    assert diagnosis.failure is None
    diagnosis = diagnose(monkeypatch, cpu_machine(tensorrt_rtx="1.7.1"), "orin")
    assert diagnosis.failure is not None
    assert diagnosis.failure.exit_code == 5
    assert "no engine for orin can be built here: TensorRT-RTX does not support" in str(diagnosis.failure)
    assert diagnosis.failure.remedy == "build it there: python -m deploytool.device build BUNDLE"


def test_an_orin_builds_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    orin = dataclasses.replace(
        cpu_machine(tensorrt="10.3"), processor="aarch64", gpus=(ORIN,), cuda="12.6", loadable_tensorrt=("10",)
    )
    assert diagnose(monkeypatch, orin, "orin").failure is None
    assert diagnose(monkeypatch, orin, "rtx40").failure is not None


def test_a_placeholder_package_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    placeholder = dataclasses.replace(
        gpu_machine(on_tensorrt="no library"),
        installed=packages({"tensorrt": "10.13-empty", "onnxruntime-gpu": "1.31.1"}),
    )
    diagnosis = diagnose(monkeypatch, placeholder, "rtx40")
    assert placeholder.gpus == (RTX,)
    assert diagnosis.failure is not None
    assert "without libnvinfer" in str(diagnosis.failure)
    assert diagnosis.failure.remedy.startswith("pip uninstall -y tensorrt,")


def test_without_a_target_the_failure_is_about_running_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    assert diagnose(monkeypatch, cpu_machine()).failure is None
    diagnosis = diagnose(monkeypatch, dataclasses.replace(cpu_machine(), providers=()))
    assert "ONNX Runtime is not installed" in str(diagnosis.failure)
    both = dataclasses.replace(
        cpu_machine(onnxruntime_gpu="1.31.1"), providers=(Provider(CPU, False, "it cannot be imported"),)
    )
    diagnosis = diagnose(monkeypatch, both)
    assert diagnosis.failure is not None
    assert diagnosis.failure.remedy == traps.find_traps(both)[0].remedy
    assert "onnxruntime onnxruntime-gpu" in diagnosis.failure.remedy


def test_missing_packages_are_named_with_the_extra_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnosis = diagnose(monkeypatch, cpu_machine(torch="2.13.0"))
    graphs = capability(diagnosis, "make graphs")
    assert (graphs.available, graphs.reason) == (False, "safetensors, onnx, onnxscript, onnxsim not installed")
    assert graphs.remedy == "pip install 'deploytool[cpu]'"
    assert capability(diagnosis, "check signatures").remedy == "pip install 'deploytool[verify]'"
    assert capability(diagnosis, "sign").remedy == "pip install 'deploytool[sign]'"
    full = diagnose(monkeypatch, cpu_machine(**dict.fromkeys(capabilities.HOST, "1.0"), cryptography="50.0"))
    assert capability(full, "make graphs").available
    assert capability(full, "check signatures") == Capability("check signatures", True, "cryptography 50.0")
    assert capability(full, RUN) == Capability(RUN, True, CPU)


def test_the_text_for_a_device_omits_exporting_and_other_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(example: Inventory, target: str = "") -> set[str]:
        lines = list(messages.lines(diagnose(monkeypatch, example, target)))
        return {line.strip().split("  ")[0] for line in lines[lines.index("What can be done here") + 1 :]}

    device, host = names(cpu_machine()), names(cpu_machine(torch="2.13"))
    assert {"run", "check signatures", "this"} <= device
    assert not {"make graphs", "sign", *TARGETS} & device
    assert {"make graphs", "sign", *TARGETS} <= host
    assert "orin" in names(cpu_machine(), "orin")


def test_an_unknown_target_is_bad_input() -> None:
    with pytest.raises(BadInput, match="there is no target 'orim'"):
        examine("orim")
