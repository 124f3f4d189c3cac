"""A model as a service uses it: opened from where it is installed, proved on this machine, then called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from deploytool import bundle
from deploytool.backends import Array, Session
from deploytool.bundle import Manifest
from deploytool.device import install, pictures, probe, starts, verify
from deploytool.device.here import here
from deploytool.device.pictures import Picture
from deploytool.device.probe import Tried
from deploytool.device.session import opened
from deploytool.device.verify import Asked, Papers
from deploytool.device.ways import Way
from deploytool.errors import BadInput
from deploytool.measure.replay import replay
from deploytool.spec import BATCH

_SECONDS = 0.2  # of timing at start: enough to show a tier that is far too slow


class Model:
    """A started model; `tried` says which ways were skipped and why, and what the one that serves has shown."""

    def __init__(self, manifest: Manifest, session: Session, tried: tuple[Tried, ...]) -> None:
        self.manifest, self.tried = manifest, tried
        self.tier = tried[-1].tier
        self._session = session

    def __call__(self, picture: Picture) -> Array:
        """The model's first output for one picture or a batch of tensors; its first axis is the batch.

        A picture is a path, uint8 pixels (height × width × 3, RGB, any size), or the float32 input itself, with its
        batch. Raises BadInput for anything else.
        """
        made = self.run(**{self.manifest.inputs[0].name: pictures.tensor(picture, self.manifest)})
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
            if array.dtype != np.dtype(tensor.dtype) or array.ndim != len(tensor.shape) or not len(array):
                yield f"{name} is {array.dtype} {array.shape}"
            elif any(side != size for side, size in zip(tensor.shape, array.shape, strict=True) if _fixed(side)):
                yield f"{name} has shape {array.shape}"
        if len({len(array) for array in inputs.values()}) > 1:
            yield "the inputs have different numbers of cases"


def _fixed(side: int | str) -> bool:
    return isinstance(side, int)


@contextmanager
def serve(root: str | Path, require: str | None = None, require_signature: str | Path | None = None) -> Iterator[Model]:
    """The model that is installed under `root`, or the bundle that lies there, proved and ready to be called.

    Every file is hashed and the golden cases are run in a child process before anything is loaded in this one. A
    bundle that fails to start three times in a row gives way to the one before it. `require` is trt, cuda or cpu: the
    least that will do; `require_signature` is the file of the public key that must have signed the bundle. Raises
    Refused, NotVerified or ParityFailed if nothing can be served, MissingBackend if no signature can be checked here.
    """
    key = Path(require_signature) if require_signature else None
    started = _bundle if _bare(root) else _installed
    with ExitStack() as stack:
        yield stack.enter_context(started(Path(root), require, key))


def _bare(root: str | Path) -> bool:
    return (Path(root) / bundle.MANIFEST).is_file()


@contextmanager
def _installed(root: Path, require: str | None, key: Path | None) -> Iterator[Model]:
    current = install.started(root).current
    recorded, place = starts.recorded(install.starts_of(root, current)), install.home(root, current)
    with recorded as succeeded, _bundle(place, require, key) as model:
        succeeded()
        yield model


@contextmanager
def _bundle(folder: Path, require: str | None, key: Path | None) -> Iterator[Model]:
    checked = verify.papers(folder, Asked(key=key))
    way, tried = _serving(checked, require)
    with opened(way) as session:
        yield Model(checked.manifest, session, tried)


def _serving(checked: Papers, require: str | None) -> tuple[Way, tuple[Tried, ...]]:
    routes = verify.routes(checked, here())
    tried = probe.climb(routes, lambda way: probe.probe(way, checked.folder, checked.manifest, _SECONDS))
    failure = probe.shortfall(tried, require)
    if failure:
        raise failure
    return routes[len(tried) - 1], tried
