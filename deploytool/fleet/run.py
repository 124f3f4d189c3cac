"""Works on many devices at once: asks their state, does an action on each, and deploys a bundle with canaries first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
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

MOST_DEVICES = 200  # threads and connections of this process
ASK_PATIENCE_S = 60.0  # for a device that does not answer the first request: it may be gone for good
_DOING = {
    Action.DEPLOY: "installs and proves the bundle",
    Action.VERIFY: "proves the bundle",
    Action.BUILD: "builds an engine",
    Action.BENCH: "measures the bundle",
    Action.ROLLBACK: "rolls back",
}
_OUTCOMES = {Unreachable.exit_code: Outcome.UNREACHABLE, Refused.exit_code: Outcome.REFUSED}


def _ignore(*_: object) -> None:
    """Drops a line or a result."""


@dataclass(frozen=True)
class Observer:
    """Is told how the work goes on, by several threads at once.

    `say` takes the name of a device and a line that it prints, `doing` a name and what is done there from now on, and
    `ended` the result of each device as soon as there is one.
    """

    say: Callable[[str, str], object] = _ignore
    doing: Callable[[str, str], object] = _ignore
    ended: Callable[[DeviceResult], object] = _ignore


_NOBODY = Observer()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is done on which devices. `at_once` limits the devices that are worked on at a time, None for all.

    `canaries` are the names of devices that must prove a bundle before the others get it; without names, `first` is
    their number. `patience_s` is the time after which a silent device is given up.
    """

    devices: Sequence[FleetDevice]
    proof: Proof = field(default_factory=Proof)
    at_once: int | None = None
    first: int = 0
    canaries: Sequence[str] = ()
    patience_s: float = 600.0


def ask(action: Action, request: Request, observer: Observer = _NOBODY) -> FleetResult:
    """The state (`status`) or the diagnosis (`doctor`) of every device; changes nothing there."""

    def one(session: Session) -> DeviceResult:
        before = _state(session)
        if action is Action.STATUS:
            return DeviceResult(SCHEMA, session.device.name, action, Outcome.DONE, before=before)
        target = ("--target", session.device.target) if session.device.target else ()
        session.doing("is examined")
        done = work.step(session.run("doctor", *target, "--json"))
        failure = work.failure_of(done)
        found = DeviceResult(SCHEMA, session.device.name, action, Outcome.DONE, steps=(done,), before=before)
        return _failed(found, failure) if failure else found

    return FleetResult(action, "", _each(action, request, one, observer))


def act(action: Action, request: Request, observer: Observer = _NOBODY) -> FleetResult:
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

    return FleetResult(action, "", _each(action, request, one, observer))


def deploy(folder: Path, request: Request, observer: Observer = _NOBODY) -> FleetResult:
    """Sends a bundle to every device that may get it, installs and proves it there.

    The first devices that accept it, or those that are named, are canaries: the others follow once all of those have
    proved it. If one does not, the rollout stops, and the canaries that did are rolled back.
    """
    demand = _demand(folder, request.proof)
    rollout = _Rollout(folder, demand, request.proof, Gate(request.first, request.canaries))
    made = _each(Action.DEPLOY, request, rollout.one, observer, demand.digest)
    if rollout.gate.failed and rollout.updated:
        made = _roll_back(made, rollout, request, observer)
        for result in made:
            if result.device in rollout.updated:
                observer.ended(result)
    return FleetResult(Action.DEPLOY, demand.digest, made)


@dataclass(frozen=True)
class _Rollout:
    """One bundle on its way to many devices; `updated` are the canaries that proved it, with their states before."""

    folder: Path
    demand: Demand
    proof: Proof
    gate: Gate
    updated: dict[str, DeviceState] = field(default_factory=dict)

    def one(self, session: Session) -> DeviceResult:
        """What becomes of one device."""
        proved = False
        try:
            done = self._through_gate(session)
            proved = done.outcome is Outcome.DONE
        finally:
            self.gate.leave(session.device.name, proved=proved)
        return done

    def _through_gate(self, session: Session) -> DeviceResult:
        before, sent = _state_by_tool(self.folder, self.demand, session)
        begun = DeviceResult(
            SCHEMA, session.device.name, Action.DEPLOY, Outcome.FAILED, self.demand.digest, before=before
        )
        if reason := accept.refusal(self.demand, before, session.device.target):
            _remove(sent, self.demand, session)
            return _failed(begun, Refused(reason, "send a bundle for this device, or see --build and --require"))
        if self.gate.count:
            session.doing("waits for the canaries")
        canary = self.gate.admit(session.device.name)
        if canary is None:
            _remove(sent, self.demand, session)
            reason = f"{self.gate.failed} did not prove the bundle, and the rollout stopped"
            return replace(begun, outcome=Outcome.NOT_STARTED, reason=reason)
        done = _deploy_one(self.folder, self.demand, session, before, self.proof)
        is_update = before.pointer is not None and before.pointer.current != self.demand.digest
        if canary and done.outcome is Outcome.DONE and is_update:
            self.updated[session.device.name] = before
        return done


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

    session.doing("gets what it lacks")
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

    session.doing("gets deploytool")
    received = session.persist(send)
    session.doing("installs deploytool")
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
    made: Sequence[DeviceResult], rollout: _Rollout, request: Request, observer: Observer
) -> tuple[DeviceResult, ...]:
    """Rolls back the canaries that proved the bundle, after another one did not."""
    proof = replace(request.proof, require=MinimumBackend.CPU)
    devices = [device for device in request.devices if device.name in rollout.updated]
    failed, say_only = rollout.gate.failed, replace(observer, ended=_ignore)

    def one(session: Session) -> DeviceResult:
        before = rollout.updated[session.device.name]
        assert before.pointer is not None
        job = work.roll_back(session.device, before.pointer.current, rollout.demand.digest, proof)
        return _carry_out(job, session, before, proof)

    rolled_back = _each(Action.ROLLBACK, replace(request, devices=devices), one, say_only)
    undone = {result.device: result for result in rolled_back}

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
    session.doing(_DOING[job.action])
    answer = session.work(work.request(job, session.device, proof))
    return work.result(job, session.device.name, before, answer)


def _state(session: Session) -> DeviceState:
    """The state of a device; one that does not answer is asked again for a minute at most, and holds no slot."""
    session.doing("is asked for its state")
    asking = replace(session, slot=nullcontext())
    try:
        patience_s = min(session.patience_s, ASK_PATIENCE_S)
        done = asking.run("status", "--root", session.device.address.root, "--json", patience_s=patience_s)
    finally:
        session.cuts, session.tool = asking.cuts, asking.tool
    return work.state_of(work.step(done))


def _each(
    action: Action,
    request: Request,
    one: Callable[[Session], DeviceResult],
    observer: Observer,
    digest: str = "",
) -> tuple[DeviceResult, ...]:
    """The result of a function for every device, in a thread each; an error is a result too, about the digest."""
    if len(request.devices) > MOST_DEVICES:
        raise BadInput(f"{len(request.devices)} devices are too many at a time", f"select at most {MOST_DEVICES}")
    slots: AbstractContextManager[object] = (
        nullcontext() if request.at_once is None else threading.BoundedSemaphore(request.at_once)
    )

    def safe(device: FleetDevice) -> DeviceResult:
        say, doing = partial(observer.say, device.name), partial(observer.doing, device.name)
        session = Session(device, say, doing, request.patience_s, slots)
        try:
            result = one(session)
        except Exception as error:  # the result of one device must not end the others
            empty = DeviceResult(SCHEMA, device.name, action, Outcome.FAILED, digest)
            result = _failed(empty, exception_text.as_error(error))
        result = replace(result, cuts=session.cuts, tool=session.tool)
        observer.ended(result)
        return result

    with ThreadPoolExecutor(max(len(request.devices), 1)) as pool:
        return tuple(pool.map(safe, request.devices))


def _failed(result: DeviceResult, error: DeployError, outcome: Outcome | None = None) -> DeviceResult:
    """A result with an error."""
    found = outcome or _OUTCOMES.get(error.exit_code, Outcome.FAILED)
    return replace(result, outcome=found, reason=str(error), remedy=error.remedy, exit_code=error.exit_code)
