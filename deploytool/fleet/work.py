"""The commands that a device runs for each action, and what their results say; everything is bound to a digest."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploytool import serde
from deploytool.device.arguments import MinimumBackend
from deploytool.device.state import DeviceState
from deploytool.errors import BadInput, DeployError, Refused, StageFailed
from deploytool.fleet.actions import Action
from deploytool.fleet.devices import FleetDevice
from deploytool.fleet.result import SCHEMA, DeviceResult, Outcome, StepResult
from deploytool.fleet.session import GET_DEPLOYTOOL, Answer, NoDeploytool
from deploytool.host.exception_text import clean

_TOOL_REMEDY = "remove the reason on the device, or pack wheels for it (--with-tool --wheel FILE), and deploy it again"
_ERRORS = {kind.exit_code: kind for kind in DeployError.__subclasses__()}


@dataclass(frozen=True)
class Proof:
    """How a bundle is proved on a device: minimum backend, time of each backend, allowed latency, key of the signer.

    With `build`, an engine is built there first.
    """

    require: MinimumBackend | None = None
    build: bool = False
    seconds: float = 3.0
    max_latency: float | None = None
    key: Path | None = None


@dataclass(frozen=True)
class Work:
    """The commands of a job, and the bundle that it is about.

    `bundle` is its folder on the device, whose tool runs the commands if it has one. `undo` follows if a command after
    the first fails; `remove` is removed after the first. The job does nothing if the current bundle is another than
    `current`, unless that is empty.
    """

    action: Action
    digest: str
    bundle: str
    steps: tuple[tuple[str, ...], ...]
    undo: tuple[str, ...] = ()
    current: str = ""
    remove: str = ""


def deploy(device: FleetDevice, digest: str, received: str, state: DeviceState, proof: Proof) -> Work:
    """Installs a bundle that was sent to `received` and measures it; an update that is not proved is rolled back."""
    root, pointer = device.address.root, state.pointer
    update = pointer is not None and pointer.current != digest
    install = ("install", received, "--root", root, "--digest", digest, *_options(proof, "--build" * proof.build))
    undo = ("rollback", "--root", root) if update else ()
    return Work(Action.DEPLOY, digest, received, (install, _bench(device, digest, proof)), undo, remove=received)


def install_tool(digest: str, received: str) -> Work:
    """Installs the tool of a bundle of which the tool was sent to `received`, and asks the state with it."""
    return Work(Action.DEPLOY, digest, received, ())


def remove(device: FleetDevice, digest: str, received: str) -> Work:
    """Removes the folder `received`, if the device answers with its state."""
    return Work(Action.DEPLOY, digest, received, (("status", "--root", device.address.root),), remove=received)


def on_current(device: FleetDevice, action: Action, state: DeviceState, proof: Proof) -> Work:
    """Verifies, builds, measures or rolls back what is installed; raises BadInput if that is nothing."""
    root, pointer = device.address.root, state.pointer
    if pointer is None:
        raise BadInput(f"nothing is installed in {root}", "deploytool fleet deploy BUNDLE")
    if action is Action.ROLLBACK:
        if pointer.previous is None:
            raise BadInput(f"there is no previous bundle in {root}", "deploytool fleet deploy BUNDLE")
        return roll_back(device, pointer.previous, pointer.current, proof)
    bundle = _installed(root, pointer.current)
    steps = {
        Action.VERIFY: ("verify", bundle, "--digest", pointer.current, *_options(proof, "--build" * proof.build)),
        Action.BUILD: ("build", bundle),
        Action.BENCH: _bench(device, pointer.current, proof),
    }
    return Work(action, pointer.current, bundle, (steps[action],), current=pointer.current)


def roll_back(device: FleetDevice, to: str, current: str, proof: Proof) -> Work:
    """Makes the previous bundle the current one again and verifies it, if the current one is the expected one."""
    bundle = _installed(device.address.root, to)
    verify = ("verify", bundle, "--digest", to, *_options(proof))
    back = ("rollback", "--root", device.address.root)
    return Work(Action.ROLLBACK, to, bundle, (back, verify), current=current)


def request(work: Work, device: FleetDevice, proof: Proof) -> dict[str, serde.Json]:
    """The request that starts a job; a key is sent along, and the commands of the job get its path."""
    name = f"{work.action}-{secrets.token_hex(8)}"
    pem = proof.key.read_text(encoding="utf-8") if proof.key else ""
    signed = ("--require-signature", f"{device.address.root}/jobs/{name}/key.pem") if pem else ()
    return {
        "id": name,
        "same": serde.digest(work, pem),
        "digest": work.digest,
        "bundle": work.bundle,
        "steps": [[*step, *signed, "--json"] for step in work.steps],
        "undo": [*work.undo, *signed, "--json"] if work.undo else [],
        "last": ["status", "--root", device.address.root, "--json"],
        "current": work.current,
        "remove": work.remove,
        "key": pem,
    }


def result(work: Work, device: str, before: DeviceState, answer: Answer) -> DeviceResult:
    """What a job that has ended means for its device: done if every command succeeded on the bundle of this digest."""
    steps = tuple(map(step, answer["steps"]))
    undone = step(answer["undone"]) if answer["undone"] else None
    failure = _failure(work, steps, str(answer["problem"]))
    found = DeviceResult(
        *(SCHEMA, device, work.action, Outcome.FAILED if failure else Outcome.DONE, work.digest),
        steps=(*steps, *([undone] if undone else [])),
        rolled_back=None if undone is None else undone.code == 0,
        before=before,
        after=_state(step(answer["last"])) if answer["last"] else None,
        began=float(answer["began"]),
        ended=float(answer["ended"]),
    )
    if failure is None:
        return found
    return replace(found, reason=str(failure), remedy=failure.remedy, exit_code=failure.exit_code)


def step(answer: Answer) -> StepResult:
    """One command that has ended on a device."""
    document: Mapping[str, Any] | None = None
    with suppress(serde.Malformed):
        loaded = serde.loads(str(answer["printed"]))
        document = loaded if isinstance(loaded, dict) else None
    words = tuple(map(str, answer["command"]))
    complained = "" if document else clean(str(answer["complained"])[-400:])
    return StepResult(words, int(answer["code"]), round(float(answer["seconds"]), 3), document, complained)


def failure_of(done: StepResult) -> DeployError | None:
    """The error of a command on a device; None if it succeeded."""
    if done.code == 0 and done.document is not None:
        return None
    error = (done.document or {}).get("error")
    if isinstance(error, dict) and {"problem", "remedy", "exit_code"} <= set(error):
        kind = _ERRORS.get(error["exit_code"], StageFailed)
        return kind(clean(str(error["problem"])), clean(str(error["remedy"])))
    why = done.complained or "it printed nothing"
    problem = f"{done.command[0]} ended there with {done.code}: {why}"
    return StageFailed(problem, "install the same deploytool there, or run the command there to see its output")


def state_of(done: StepResult) -> DeviceState:
    """The state that `status` printed on a device; raises its error, and NoDeploytool if it printed no state."""
    failure = failure_of(done)
    if failure and done.document is not None:
        raise failure
    state = _state(done)
    if failure or state is None:
        raise NoDeploytool(str(failure or "its deploytool is of another version"), GET_DEPLOYTOOL)
    return state


def state_after(answer: Answer) -> DeviceState:
    """The state of a device after a job; raises the error of the job, or of `status`."""
    if answer["problem"]:
        raise StageFailed(clean(str(answer["problem"])), _TOOL_REMEDY)
    return state_of(step(answer["last"]))


def _state(done: StepResult) -> DeviceState | None:
    with suppress(serde.Malformed):
        return serde.decode(DeviceState, done.result)
    return None


def _failure(work: Work, steps: Sequence[StepResult], problem: str) -> DeployError | None:
    """Why a job did not do its work; None if it did."""
    if problem:
        return StageFailed(clean(problem), "see what is installed there with `deploytool fleet status`, and repeat")
    for done in steps:
        if failure := failure_of(done):
            return failure
    last = steps[-1].result if len(steps) == len(work.steps) else None
    if not isinstance(last, dict) or last.get("digest") != work.digest:
        return Refused("its result is not about the bundle that it was asked for", "repeat the command")
    return None


def _bench(device: FleetDevice, digest: str, proof: Proof) -> tuple[str, ...]:
    allowed = () if proof.max_latency is None else ("--max-latency", f"{proof.max_latency:g}")
    bundle = _installed(device.address.root, digest)
    return ("bench", bundle, "--seconds", f"{proof.seconds:g}", *allowed, *_options(proof))


def _options(proof: Proof, *further: str) -> tuple[str, ...]:
    require = ("--require", proof.require.value) if proof.require else ()
    return (*require, *filter(None, further))


def _installed(root: str, digest: str) -> str:
    return f"{root.rstrip('/')}/bundles/{digest}"
