"""The Python API for services: opens an installed bundle, verifies it on this machine, and runs the model."""

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
from deploytool.device.candidates import Candidate, Tier
from deploytool.device.environment import detect
from deploytool.device.inputs import Pictures
from deploytool.device.probe import Probing
from deploytool.device.session import open_candidate
from deploytool.device.verify import Integrity, VerifyOptions
from deploytool.errors import BadInput, CorruptBundle, DeployError
from deploytool.parity.replay import replay
from deploytool.spec import BATCH

_RACE_SECONDS = 0.5  # of timing two runtimes in turn
_SECONDS = 0.2  # of timing at start: enough to show a tier that is far too slow


class Model:
    """A started model; `tier` is what runs it, and `int8` says that this computes in INT8.

    `tried` has the result of each candidate that was tried, and `race` the comparison of two runtimes that both work on
    the CPU, None if there was none.
    """

    def __init__(self, manifest: Manifest, session: Session, tier: Tier, probing: Probing) -> None:
        self.manifest, self.tried, self.race = manifest, probing.results, probing.race
        self.tier = tier
        working = probe.first_passed(probing.results)
        self.int8 = working is not None and working.int8
        self._session = session

    def __call__(self, picture: Pictures) -> Array:
        """The model's first output for one image or a batch of tensors; its first axis is the batch.

        `picture` is a path, uint8 pixels (height × width × 3, RGB, any size), or the input tensor with its batch; for a
        model of several image inputs a mapping with one for each, by name. Raises BadInput for anything else.
        """
        outputs = self.run(**device_inputs.tensors(picture, self.manifest))
        return outputs[self.manifest.outputs[0].name]

    def run(self, **inputs: Array) -> dict[str, Array]:
        """Every output by name, from every input by name, for any number of cases.

        Raises BadInput if an input is missing, unknown, or has another dtype or shape.
        """
        for problem in self._problems(inputs):
            expected = ", ".join(f"{spec.name}: {spec.dtype} {spec.shape}" for spec in self.manifest.inputs)
            raise BadInput(problem, f"it takes {expected}")
        return dict(replay(self._session, inputs, self.manifest.free[BATCH]))

    def _problems(self, inputs: dict[str, Array]) -> Iterator[str]:
        specs = {spec.name: spec for spec in self.manifest.inputs}
        if set(inputs) != set(specs):
            yield f"{self.manifest.name} takes {', '.join(specs)}, not {', '.join(inputs) or 'nothing'}"
            return
        for name, spec in specs.items():
            array = inputs[name]
            if not isinstance(array, np.ndarray):
                yield f"{name} is {type(array).__name__}, not a numpy array"
                return
            if array.dtype != np.dtype(spec.dtype) or array.ndim != len(spec.shape) or not len(array):
                yield f"{name} is {array.dtype} {array.shape}"
            elif any(
                isinstance(size, int) and size != side for size, side in zip(spec.shape, array.shape, strict=True)
            ):
                yield f"{name} has shape {array.shape}"
            elif problem := preprocess.size_problem(array.shape, spec, self.manifest.free):
                yield f"{name} has shape {array.shape}: {problem}"
        if len({len(array) for array in inputs.values()}) > 1:
            yield "the inputs have different numbers of cases"


@contextmanager
def serve(root: str | Path, require: str | None = None, require_signature: str | Path | None = None) -> Iterator[Model]:
    """The model installed under `root`, or the bundle in that folder, verified and ready to be called.

    The digest of every file is checked and the golden cases run in a child process before anything is loaded in this
    process. A bundle that fails to start three times in a row by its own fault (wrong bytes, wrong outputs, a crash) is
    replaced by the previous bundle. `require` (trt, cuda or cpu) is the minimum acceptable backend; `require_signature`
    is the file of the public key that must have signed the bundle. Raises Refused, NotVerified or ParityFailed if
    nothing can be served, MissingBackend if signatures cannot be checked here, and BadInput for faults of the machine
    or the caller.
    """
    key = Path(require_signature) if require_signature else None
    with ExitStack() as stack:
        try:
            start = _start_bundle if (Path(root) / MANIFEST_FILE).is_file() else _start_installed
            model = start(stack, Path(root), require, key)
        except OSError as error:
            problem = f"{error.filename or root}: {error.strerror or error}"
            remedy = "check the path, its permissions, the disk, and how many files may be open"
            raise BadInput(problem, remedy) from error
        yield model


def _start_installed(stack: ExitStack, root: Path, require: str | None, key: Path | None) -> Model:
    """Starts the current bundle of a root; starts again if another one is installed meanwhile."""
    while True:
        digest = install.bundle_to_start(root).current
        records, folder, faults = install.start_records(root, digest), install.bundle_path(root, digest), list[str]()
        before = _folder_identity(folder)
        try:
            prepared = _prepare(folder, require, VerifyOptions(digest=digest, key=key), faults.append)
            with start_attempts.attempting(records):
                session = stack.enter_context(open_candidate(prepared.candidate))
        except (DeployError, OSError):
            pointer = install.read_pointer(root)
            if pointer is not None and (pointer.current, _folder_identity(folder)) != (digest, before):
                continue  # another bundle was installed meanwhile, or this one again
            for reason in faults:
                start_attempts.record(records, reason)
            raise
        start_attempts.forget(records)
        return Model(prepared.checked.manifest, session, prepared.candidate.tier, prepared.probing)


def _folder_identity(folder: Path) -> tuple[int, int] | None:
    """Inode and change time of a folder; an install changes either, even if it installs the same bundle again."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _start_bundle(stack: ExitStack, folder: Path, require: str | None, key: Path | None) -> Model:
    prepared = _prepare(folder, require, VerifyOptions(key=key), lambda reason: None)
    session = stack.enter_context(open_candidate(prepared.candidate))
    return Model(prepared.checked.manifest, session, prepared.candidate.tier, prepared.probing)


@dataclass(frozen=True)
class _Prepared:
    """A bundle whose integrity was checked, the candidate that serves, and the results of all that were tried."""

    checked: Integrity
    candidate: Candidate
    probing: Probing


def _prepare(
    folder: Path, require: str | None, options: VerifyOptions, report_fault: Callable[[str], None]
) -> _Prepared:
    """Verifies a bundle for loading; `report_fault` takes the reason of an error that the bundle itself caused."""
    try:
        checked = verify.check_integrity(folder, options)
    except CorruptBundle as error:
        report_fault(str(error))
        raise
    candidates = verify.run_candidates(checked, detect())
    probing = probe.probe_in_order(
        candidates,
        lambda candidate: probe.probe(candidate, checked.folder, checked.manifest, _SECONDS),
        racer=lambda one, other: probe.race(one, other, checked.folder, checked.manifest, _RACE_SECONDS),
    )
    results = probing.results
    failure = probe.shortfall(results, require)
    if failure and any(result.is_bundles_fault for result in probe.tried_before(results)):
        report_fault(str(failure))
    if failure:
        raise failure
    return _Prepared(checked, probe.serving(candidates, results), probing)
