"""A diagnosis in lines for people, plain enough for any terminal."""

from __future__ import annotations

from collections.abc import Iterator

from deploytool.doctor import Diagnosis, capabilities
from deploytool.doctor.inventory import RUNTIMES, Inventory
from deploytool.targets import FLAVOURS, FULL, RTX, TARGETS, THIS


def lines(shown: Diagnosis) -> Iterator[str]:
    """What is here, what can be done, and what to mend; on a device nothing of exporting or of other targets."""
    yield f"{shown.found.system} on {shown.found.processor}: {shown.found.cpu}"
    yield from (f"  {name:<18}{what}" for name, what in _here(shown.found))
    yield "What can be done here"
    device = capabilities.is_device(shown.found)
    here = {capabilities.RUN, capabilities.SIGNED, THIS, shown.target}
    for one in (each for each in shown.abilities if not device or each.name in here):
        mend = f" ({one.mend})" if one.mend and one.name not in TARGETS else ""
        yield f"  {one.name:<18}{'yes' if one.able else 'no '}  {one.why}{mend}"
    if device:
        yield f"  Not a host: exporting needs {', '.join(capabilities.HOST)} (pip install 'deploytool[cpu]')."
    if not shown.traps:
        yield "No known trap was found."
    for trap in shown.traps:
        yield f"Trap ({trap.name}): {trap.problem}"
        yield f"  → {trap.mend}"


def _here(found: Inventory) -> Iterator[tuple[str, str]]:
    yield "driver", f"serves CUDA {found.cuda}" if found.cuda else "none answers"
    yield "GPU", ", ".join(f"{gpu.name} (compute capability {gpu.capability})" for gpu in found.gpus) or "none"
    if not capabilities.is_device(found):
        yield "torch", found.version("torch") or "not installed"
    full, rtx = FLAVOURS[FULL], FLAVOURS[RTX]
    loadable = f"{', '.join(found.loads)}.x" if found.loads else "not installed"
    yield full.title, found.version(full.distribution) or loadable
    yield rtx.title, found.version(rtx.distribution) or "not installed"
    names = [f"{name} {found.version(name)}" for name in RUNTIMES if found.version(name)]
    yield "ONNX Runtime", " and ".join(names) or "not installed"
    yield from (("", f"{each.name}: {each.reason or 'starts'}") for each in found.providers)
