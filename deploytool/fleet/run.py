"""Works on many devices at once: asks their state, does an action on each, and deploys a bundle with canaries first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploytool.bundle import subset
from deploytool.bundle.manifest import File, Manifest, check_files, engine_recipe, manifest_digest, read_manifest
from deploytool.device import verify
from deploytool.device.arguments import MinimumBackend
from deploytool.device.state import DeviceState
from deploytool.errors import BadInput, DeployError, Refused, Unreachable
from deploytool.fleet import accept, work
from deploytool.fleet.accept import Demand
from deploytool.fleet.actions import Action
from deploytool.fleet.devices import FleetDevice
from deploytool.fleet.gate import Gate
from deploytool.fleet.result import SCHEMA, DeviceResult, FleetResult, Outcome
from deploytool.fleet.session import NoDeploytool, Session
from deploytool.fleet.work import Proof
from deploytool.host import exception_text
from deploytool.transfer import ssh

Say = Callable[[str, str], None]  # takes the name of a device and a line
Watch = Callable[[DeviceResult], None]  # takes the result of each device as soon as there is one

MOST_DEVICES = 200  # threads and connections of this process
_ASK_PATIENCE_S = 10.0  # for a device that does not answer the first request
_OUTCOMES = {Unreachable.exit_code: Outcome.UNREACHABLE, Refused.exit_code: Outcome.REFUSED}


def _ignore(*_: object) -> None:
    """Drops a line or a result."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is done on which devices. `at_once` limits the devices that are worked on at a time, None for all.

    `first` is the number of canaries, and `patience_s` the time after which a silent device is given up.
    """

    devices: Sequence[FleetDevice]
    proof: Proof = field(default_factory=Proof)
    at_once: int | None = None
    first: int = 0
    patience_s: float = 600.0


def ask(action: Action, request: Request, say: Say = _ignore, watch: Watch = _ignore) -> FleetResult:
    """The state (`status`) or the diagnosis (`doctor`) of every device; changes nothing there."""

    def one(session: Session) -> DeviceResult:
        before = _state(session)
        if action is Action.STATUS:
            return DeviceResult(SCHEMA, session.device.name, action, Outcome.DONE, before=before)
        target = ("--target", session.device.target) if session.device.target else ()
        done = work.step(session.run("doctor", *target, "--json"))
        failure = work.failure_of(done)
        found = DeviceResult(SCHEMA, session.device.name, action, Outcome.DONE, steps=(done,), before=before)
        return _failed(found, failure) if failure else found

    return FleetResult(action, "", _each(action, request, one, say, watch))


def act(action: Action, request: Request, say: Say = _ignore, watch: Watch = _ignore) -> FleetResult:
    """Verifies, builds, measures or rolls back what is installed on every device.

    Raises BadInput if what must have signed it is no public key.
    """
    proof = request.proof
    if proof.key is not None:
        verify.check_key(proof.key)
    proof = replace(proof, require=proof.require or MinimumBackend.CPU)

    def one(session: Session) -> DeviceResult:
        before = _state(session)
        return _carry_out(work.on_current(session.device, action, before, proof), session, before, proof)

    return FleetResult(action, "", _each(action, request, one, say, watch))


def deploy(folder: Path, request: Request, say: Say = _ignore, watch: Watch = _ignore) -> FleetResult:
    """Sends a bundle to every device that may get it, installs and proves it there.

    The first devices that accept it are canaries: the others follow once all of those have proved it. If one does not,
    the rollout stops, and the canaries that did are rolled back.
    """
    demand = _demand(folder, request.proof)
    gate, updated = Gate(request.first), dict[str, DeviceState]()

    def one(session: Session) -> DeviceResult:
        before, sent = _state_by_tool(folder, demand, session)
        if reason := accept.refusal(demand, before, session.device.target):
            _remove(sent, demand, session)
            remedy = "send a bundle for this device, or see --build and --require"
            return _failed(_begun(session, demand.digest, before), Refused(reason, remedy))
        admitted = gate.admit()
        if admitted is None:
            _remove(sent, demand, session)
            reason = f"{gate.failed} did not prove the bundle, and the rollout stopped"
            return replace(_begun(session, demand.digest, before), outcome=Outcome.NOT_STARTED, reason=reason)
        proved = False
        try:
            done = _deploy_one(folder, demand, session, before, request.proof)
            proved = done.outcome is Outcome.DONE
        finally:
            if admitted:
                gate.report(session.device.name, proved=proved)
        if admitted and proved and before.pointer is not None and before.pointer.current != demand.digest:
            updated[session.device.name] = before
        return done

    made = _each(Action.DEPLOY, request, one, say, watch, demand.digest)
    if gate.failed and updated:
        made = _roll_back(made, updated, demand, gate.failed, request, say)
        for result in made:
            if result.device in updated:
                watch(result)
    return FleetResult(Action.DEPLOY, demand.digest, made)


def _demand(folder: Path, proof: Proof) -> Demand:
    """The bundle and what is demanded of devices; raises Refused or BadInput if it is not whole or signed."""
    manifest = read_manifest(folder)
    if subset.read(folder) is not None:
        raise BadInput(f"{folder} is incomplete: it was fetched for one target", "send the complete bundle")
    check_files(folder, manifest)
    if proof.key is not None:
        verify.check_integrity(folder, verify.VerifyOptions(key=proof.key))
    graph = engine_recipe(folder, manifest).graph if proof.build else ""
    return Demand(manifest_digest(folder), manifest, graph, proof.require, proof.build)


def _deploy_one(folder: Path, demand: Demand, session: Session, before: DeviceState, proof: Proof) -> DeviceResult:
    device = session.device
    proof = replace(proof, require=demand.minimum(device.target))

    def send() -> str:
        return _send(folder, demand.manifest, session).folder

    received = session.persist(send)
    return _carry_out(work.deploy(device, demand.digest, received, before, proof), session, before, proof)


def _state_by_tool(folder: Path, demand: Demand, session: Session) -> tuple[DeviceState, str]:
    """The state of a device, and the folder there that got the tool of the bundle, empty if none was needed for it.

    A device without deploytool gets it from the bundle before anything else.
    """
    try:
        return _state(session), ""
    except NoDeploytool:
        if not demand.manifest.tool:
            raise

    def send() -> str:
        return _send(folder, demand.manifest, session, demand.manifest.tool).folder

    received = session.persist(send)
    job = work.install_tool(demand.digest, received)
    return work.state_after(session.work(work.request(job, session.device, Proof()))), received


def _remove(received: str, demand: Demand, session: Session) -> None:
    """Removes the folder that got the tool of a bundle which does not follow; a device that is gone keeps it."""
    if received:
        job = work.remove(session.device, demand.digest, received)
        with suppress(DeployError):
            session.work(work.request(job, session.device, Proof()))


def _send(folder: Path, manifest: Manifest, session: Session, only: Sequence[File] = ()) -> ssh.ShipResult:
    """Sends what the device lacks of a bundle, or of some files; an interrupted transfer resumes with the next call."""
    device = session.device

    def say(line: str) -> None:
        session.heard()
        session.say(line)

    kind = subset.parse(device.target or None)
    return ssh.ship(folder, manifest, device.address, device.ssh, kind, only=only, install=False, say=say)


def _roll_back(
    made: Sequence[DeviceResult],
    updated: dict[str, DeviceState],
    demand: Demand,
    failed: str,
    request: Request,
    say: Say,
) -> tuple[DeviceResult, ...]:
    """Rolls back the canaries that proved the bundle, after another one did not."""
    proof = replace(request.proof, require=MinimumBackend.CPU)
    devices = [device for device in request.devices if device.name in updated]

    def one(session: Session) -> DeviceResult:
        before = updated[session.device.name]
        assert before.pointer is not None
        job = work.roll_back(session.device, before.pointer.current, demand.digest, proof)
        return _carry_out(job, session, before, proof)

    undone = {result.device: result for result in _each(Action.ROLLBACK, replace(request, devices=devices), one, say)}

    def judged(result: DeviceResult) -> DeviceResult:
        back = undone.get(result.device)
        if back is None:
            return result
        whole = back.outcome is Outcome.DONE
        reason = f"{failed} did not prove the bundle" + ("" if whole else f"; the rollback failed: {back.reason}")
        remedy = back.remedy or "see the reason of that device"
        after = back.after or result.after
        found = replace(result, steps=(*result.steps, *back.steps), rolled_back=whole, after=after)
        return _failed(found, Refused(reason, remedy), Outcome.FAILED)

    return tuple(map(judged, made))


def _carry_out(job: work.Work, session: Session, before: DeviceState, proof: Proof) -> DeviceResult:
    """Starts a job, follows it to its end, and says what it means."""
    answer = session.work(work.request(job, session.device, proof))
    return work.result(job, session.device.name, before, answer)


def _state(session: Session) -> DeviceState:
    """The state of a device; one that does not answer at all is given up after seconds, and holds no slot."""
    asking = replace(session, slot=nullcontext())
    try:
        done = asking.run("status", "--root", session.device.address.root, "--json", patience_s=_ASK_PATIENCE_S)
    finally:
        session.cuts, session.tool = asking.cuts, asking.tool
    return work.state_of(work.step(done))


def _each(
    action: Action,
    request: Request,
    one: Callable[[Session], DeviceResult],
    say: Say,
    watch: Watch = _ignore,
    digest: str = "",
) -> tuple[DeviceResult, ...]:
    """The result of a function for every device, in a thread each; an error is a result too, about the digest."""
    if len(request.devices) > MOST_DEVICES:
        raise BadInput(f"{len(request.devices)} devices are too many at a time", f"select at most {MOST_DEVICES}")
    slots: AbstractContextManager[object] = (
        nullcontext() if request.at_once is None else threading.BoundedSemaphore(request.at_once)
    )

    def safe(device: FleetDevice) -> DeviceResult:
        session = Session(device, lambda line: say(device.name, line), request.patience_s, slots)
        try:
            result = one(session)
        except Exception as error:  # the result of one device must not end the others
            empty = DeviceResult(SCHEMA, device.name, action, Outcome.FAILED, digest)
            result = _failed(empty, exception_text.as_error(error))
        result = replace(result, cuts=session.cuts, tool=session.tool)
        watch(result)
        return result

    with ThreadPoolExecutor(max(len(request.devices), 1)) as pool:
        return tuple(pool.map(safe, request.devices))


def _begun(session: Session, digest: str, before: DeviceState) -> DeviceResult:
    return DeviceResult(SCHEMA, session.device.name, Action.DEPLOY, Outcome.FAILED, digest, before=before)


def _failed(result: DeviceResult, error: DeployError, outcome: Outcome | None = None) -> DeviceResult:
    """A result with an error."""
    found = outcome or _OUTCOMES.get(error.exit_code, Outcome.FAILED)
    return replace(result, outcome=found, reason=str(error), remedy=error.remedy, exit_code=error.exit_code)
