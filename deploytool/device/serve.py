"""A model as a service uses it: opened from where it is installed, proved on this machine, then called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploytool.backends.session import Array, Session
from deploytool.bundle.manifest import MANIFEST_FILE, Manifest
from deploytool.data import preprocess
from deploytool.device import inputs as device_inputs
from deploytool.device import install, probe, start_attempts, verify
from deploytool.device.candidates import Candidate
from deploytool.device.environment import detect
from deploytool.device.inputs import Picture
from deploytool.device.probe import ProbeResult
from deploytool.device.session import open_candidate
from deploytool.device.verify import Integrity, VerifyOptions
from deploytool.errors import BadInput, DeployError, Spoiled
from deploytool.parity.replay import replay
from deploytool.spec import BATCH

_SECONDS = 0.2  # of timing at start: enough to show a tier that is far too slow


class Model:
    """A started model; `tried` says which ways were skipped and why, and what the one that serves has shown."""

    def __init__(self, manifest: Manifest, session: Session, tried: tuple[ProbeResult, ...]) -> None:
        self.manifest, self.tried = manifest, tried
        self.tier = tried[-1].tier
        self._session = session

    def __call__(self, picture: Picture) -> Array:
        """The model's first output for one picture or a batch of tensors; its first axis is the batch.

        A picture is a path, uint8 pixels (height × width × 3, RGB, any size), or the input itself, with its batch.
        Raises BadInput for anything else.
        """
        made = self.run(**{self.manifest.inputs[0].name: device_inputs.tensor(picture, self.manifest)})
        return made[self.manifest.outputs[0].name]

    def run(self, **inputs: Array) -> dict[str, Array]:
        """Every output by name, from every input by name, as many cases as you like.

        Raises BadInput if an input is missing, one too many, or of another type or shape.
        """
        for problem in self._problems(inputs):
            names = ", ".join(f"{one.name}: {one.dtype} {one.shape}" for one in self.manifest.inputs)
            raise BadInput(problem, f"it takes {names}")
        return dict(replay(self._session, inputs, self.manifest.free[BATCH]))

    def _problems(self, inputs: dict[str, Array]) -> Iterator[str]:
        wanted = {tensor.name: tensor for tensor in self.manifest.inputs}
        if set(inputs) != set(wanted):
            yield f"{self.manifest.name} takes {', '.join(wanted)}, not {', '.join(inputs) or 'nothing'}"
            return
        for name, tensor in wanted.items():
            array = inputs[name]
            if not isinstance(array, np.ndarray):
                yield f"{name} is {type(array).__name__}, and no array of numpy's"
                return
            if array.dtype != np.dtype(tensor.dtype) or array.ndim != len(tensor.shape) or not len(array):
                yield f"{name} is {array.dtype} {array.shape}"
            elif any(side != size for side, size in zip(tensor.shape, array.shape, strict=True) if _fixed(side)):
                yield f"{name} has shape {array.shape}"
            elif unfit := preprocess.size_problem(array.shape, tensor, self.manifest.free):
                yield f"{name} has shape {array.shape}: {unfit}"
        if len({len(array) for array in inputs.values()}) > 1:
            yield "the inputs have different numbers of cases"


def _fixed(side: int | str) -> bool:
    return isinstance(side, int)


@contextmanager
def serve(root: str | Path, require: str | None = None, require_signature: str | Path | None = None) -> Iterator[Model]:
    """The model that is installed under `root`, or the bundle that lies there, proved and ready to be called.

    Every file is hashed and the golden cases are run in a child process before anything is loaded in this one. A
    bundle that fails to start three times in a row by its own fault (its bytes, its answers, a process that died of
    it) gives way to the one before it. `require` is trt, cuda or cpu: the least that will do; `require_signature` is
    the file of the public key that must have signed the bundle. Raises Refused, NotVerified or ParityFailed if nothing
    can be served, MissingBackend if no signature can be checked here, BadInput for what the machine or the caller got
    wrong.
    """
    key = Path(require_signature) if require_signature else None
    with ExitStack() as stack:
        try:
            started = _bundle if _bare(root) else _installed
            model = started(stack, Path(root), require, key)
        except OSError as error:
            problem = f"{error.filename or root}: {error.strerror or error}"
            raise BadInput(problem, "check the path, its rights, the disk, and how many files may be open") from error
        yield model


def _bare(root: str | Path) -> bool:
    return (Path(root) / MANIFEST_FILE).is_file()


def _installed(stack: ExitStack, root: Path, require: str | None, key: Path | None) -> Model:
    """The current bundle of a root; one that is installed meanwhile takes its place."""
    while True:
        digest = install.started(root).current
        counted, place, blamed = install.start_records(root, digest), install.root_of(root, digest), list[str]()
        before = _state(place)
        try:
            made = _prepared(place, require, VerifyOptions(digest=digest, key=key), blamed.append)
            with start_attempts.attempting(counted):
                session = stack.enter_context(open_candidate(made.way))
        except (DeployError, OSError):
            now = install.pointer(root)
            if now is not None and (now.current, _state(place)) != (digest, before):
                continue  # another one was installed meanwhile, or this one anew
            for why in blamed:
                start_attempts.record(counted, why)
            raise
        start_attempts.forget(counted)
        return Model(made.checked.manifest, session, made.tried)


def _state(place: Path) -> tuple[int, int] | None:
    """Which folder of that name it is; an install that finds it there changes that too."""
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _bundle(stack: ExitStack, folder: Path, require: str | None, key: Path | None) -> Model:
    made = _prepared(folder, require, VerifyOptions(key=key), lambda why: None)
    return Model(made.checked.manifest, stack.enter_context(open_candidate(made.way)), made.tried)


@dataclass(frozen=True)
class _Prepared:
    """A bundle with its papers checked, the way that serves, and what became of those before it."""

    checked: Integrity
    way: Candidate
    tried: tuple[ProbeResult, ...]


def _prepared(folder: Path, require: str | None, asked: VerifyOptions, blamed: Callable[[str], None]) -> _Prepared:
    """A bundle ready to be loaded; where it cannot be by its own fault, `blamed` is told why before that is raised."""
    try:
        checked = verify.check_integrity(folder, asked)
    except Spoiled as error:
        blamed(str(error))
        raise
    routes = verify.run_candidates(checked, detect())
    tried = probe.probe_in_order(routes, lambda way: probe.probe(way, checked.folder, checked.manifest, _SECONDS))
    failure = probe.shortfall(tried, require)
    if failure and any(each.is_bundles_fault for each in probe.tried_before(tried)):
        blamed(str(failure))
    if failure:
        raise failure
    return _Prepared(checked, routes[len(tried) - 1], tried)
