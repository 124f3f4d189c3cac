"""A TorchScript file as torch runs it; torch has deprecated the format, users still ask for it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from deploytool.backends.eager import checked_device, fingerprint, full_fp32
from deploytool.backends.session import Array, Session, checked_outputs, in_batches, run_failure

__all__ = ["fingerprint", "start"]


@contextmanager
def start(path: Path, device: str = "cpu") -> Iterator[Session]:
    """The script of a file; it carries the names of its inputs and outputs itself."""
    names: dict[str, bytes] = {"inputs": b"", "outputs": b"", "batch": b""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole is deprecated: known, see above
        script = torch.jit.load(path, map_location=checked_device(device), _extra_files=names)  # type: ignore[no-untyped-call]  # torch.jit has no types
    inputs, outputs = (names[side].decode().split() for side in ("inputs", "outputs"))  # torch left bytes there

    def call(**given: Array) -> dict[str, Array]:
        try:
            with torch.inference_mode():
                made = script(*(torch.tensor(given[name]).to(device) for name in inputs))
        except RuntimeError as error:  # its own stack comes first, the reason last
            raise run_failure("TorchScript", given, str(error).strip().splitlines()[-1]) from error
        made = made if isinstance(made, (tuple, list)) else (made,)
        return checked_outputs(
            "TorchScript", given, {name: output.cpu().numpy() for name, output in zip(outputs, made, strict=True)}
        )

    with full_fp32():
        yield in_batches(call, [int(names["batch"])] if names["batch"] else [])
