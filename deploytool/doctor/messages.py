"""Formats a diagnosis as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from deploytool.doctor import capabilities
from deploytool.doctor.diagnosis import Diagnosis
from deploytool.doctor.inventory import OPENVINO, RUNTIMES, Inventory
from deploytool.targets import FLAVOURS, TARGETS, TENSORRT, TENSORRT_RTX, THIS


def lines(diagnosis: Diagnosis) -> Iterator[str]:
    """Inventory, capabilities and traps; on a device, without exporting and the targets that were not requested."""
    inventory = diagnosis.inventory
    yield f"{inventory.system} on {inventory.processor}: {inventory.cpu}"
    yield from (f"  {name:<18}{text}" for name, text in _inventory_rows(inventory))
    yield "What can be done here"
    device = capabilities.is_device(inventory)
    on_device = {capabilities.RUN, capabilities.CHECK_SIGNATURES, THIS, diagnosis.target}
    for capability in diagnosis.capabilities:
        if device and capability.name not in on_device:
            continue
        remedy = f" ({capability.remedy})" if capability.remedy and capability.name not in TARGETS else ""
        yield f"  {capability.name:<18}{'yes' if capability.available else 'no '}  {capability.reason}{remedy}"
    if device:
        yield f"  Not a host: exporting needs {', '.join(capabilities.HOST)} (pip install 'deploytool[cpu]')."
    if not diagnosis.traps:
        yield "No known trap was found."
    for trap in diagnosis.traps:
        yield f"Trap ({trap.name}): {trap.problem}"
        yield f"  → {trap.remedy}"


def _inventory_rows(inventory: Inventory) -> Iterator[tuple[str, str]]:
    """Name and text of each row; a row without a name continues the one before."""
    if release := inventory.jetpack:
        contents = f"TensorRT {release.tensorrt}, CUDA {release.cuda}, Python {release.python}"
        yield "JetPack", f"{release.jetpack} ({contents}, ONNX Runtime up to {release.onnxruntime})"
        if release.refusal:
            yield "", release.refusal
    yield "driver", f"supports CUDA {inventory.cuda}" if inventory.cuda else "no NVIDIA driver responds"
    yield "GPU", ", ".join(f"{gpu.name} (compute capability {gpu.capability})" for gpu in inventory.gpus) or "none"
    if not capabilities.is_device(inventory):
        yield "torch", inventory.version("torch") or "not installed"
    full, rtx = FLAVOURS[TENSORRT], FLAVOURS[TENSORRT_RTX]
    yield full.title, inventory.version(full.distribution) or _loadable(inventory) or "not installed"
    yield rtx.title, inventory.version(rtx.distribution) or "not installed"
    names = [f"{name} {inventory.version(name)}" for name in RUNTIMES if inventory.version(name)]
    yield "ONNX Runtime", " and ".join(names) or "not installed"
    yield from (("", f"{provider.name}: {provider.reason or 'starts'}") for provider in inventory.providers)
    if version := inventory.version(OPENVINO):
        yield "OpenVINO", version


def _loadable(inventory: Inventory) -> str:
    """The releases of TensorRT that the loader finds; empty if there are none."""
    return f"{', '.join(inventory.loadable_tensorrt)}.x" if inventory.loadable_tensorrt else ""
