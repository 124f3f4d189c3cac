from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import deploytool
from deploytool.backends import eager
from deploytool.cli import pack
from deploytool.data import golden, images
from deploytool.errors import BadInput, ResourceExhausted, StageFailed, Unreachable
from deploytool.host import disk, exception_text, files, process
from deploytool.parity import intermediates
from deploytool.training import checkpoint
from deploytool.training.checkpoint import Checkpoint
from tests.conftest import TINY

_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
_LIMIT = 20_000  # bytes of a file
_BIG = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)


@contextmanager
def limited(most: int = _LIMIT) -> Iterator[None]:
    """Limits the size of files; Python ignores SIGXFSZ, so that writing raises an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _write_golden(path: Path) -> None:
    golden.write_cases(path, _BIG[None], {"input": _BIG[None].astype(np.float32)})


def _write_weights(path: Path) -> None:
    eager.save({"weight": torch.zeros(10_000)}, TINY, path)


def _write_probes(path: Path) -> None:
    intermediates.write(path, intermediates.Probes({"tensor": np.zeros(10_000)}))


def _write_checkpoint(path: Path) -> None:
    state = {"weight": torch.zeros(10_000)}
    checkpoint.write(path.parent, Checkpoint("key", (), state, {}, state))


def _copy(path: Path) -> None:
    source = path.with_name("source")
    files.verify_file(source, 30_000, "0" * 64, path)


_WRITERS: dict[str, Callable[[Path], None]] = {
    "model.onnx": lambda path: disk.write(path, bytes(30_000)),
    "golden.npz": _write_golden,
    "probes.npz": _write_probes,
    "weights.safetensors": _write_weights,
    "picture.png": lambda path: images.write(path, _BIG),
    "checkpoint.pt": _write_checkpoint,
    "report.html": lambda path: files.publish(path, bytes(30_000)),
    "copy": _copy,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", _WRITERS)
def test_every_writer_names_a_file_that_grows_too_large(tmp_path: Path, name: str) -> None:
    (tmp_path / "source").write_bytes(bytes(30_000))
    with limited(), pytest.raises(ResourceExhausted) as raised:
        _WRITERS[name](tmp_path / name)
    assert str(raised.value).startswith(f"{tmp_path / name} cannot be written: File too large")
    assert "ulimit -f" in raised.value.remedy


def test_the_file_that_was_written_last_is_named_with_the_users_path(tmp_path: Path) -> None:
    for name, when in (("before", 1), ("golden.npz", 2)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (when, when))
    writing = disk.writing(tmp_path, named=Path("run/golden"), needed=2e6)
    with (
        pytest.raises(
            ResourceExhausted, match=r"^run/golden/golden.npz cannot be written: No space .*, and it takes 2.0 MB"
        ),
        writing,
    ):
        raise _FULL


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "quota"),
        OSError(errno.EIO, "broken"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device")]),
    ],
    ids=["quota", "broken disk", "safetensors", "copytree"],
)
def test_disk_errors_of_all_libraries_are_recognised(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(ResourceExhausted, match=rf"^{tmp_path / 'file'} cannot be (read or )?written"),
        disk.writing(tmp_path / "file"),
    ):
        raise error
    refused = StageFailed("the exporter refuses the model", "see it")
    refused.__cause__ = error
    with pytest.raises(ResourceExhausted), disk.writing(tmp_path / "file"):
        raise refused


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "not yours"),
        ValueError("a number (os error 5000)"),
        Unreachable("device: No space left on device", "send it again"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_unchanged(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, disk.writing(tmp_path / "file"):
        raise error
    assert raised.value is error


def test_a_read_error_is_not_a_write_error() -> None:
    reading_error = BadInput("x cannot be read: Input/output error", "check it")
    reading_error.__cause__ = OSError(errno.EIO, "broken")
    assert disk.cause(reading_error) is None


def test_as_error_recognises_a_full_disk() -> None:
    assert isinstance(exception_text.as_error(OSError(errno.ENOSPC, "full", "/x/file")), ResourceExhausted)
    assert str(exception_text.as_error(_FULL)).startswith("a file cannot be written: No space left on device")


def test_the_error_of_a_child_that_cannot_write_names_the_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"open({str(tmp_path / 'made')!r}, 'wb').write(bytes(30000))"]
    with limited(), pytest.raises(ResourceExhausted, match=r"^the output of onnxsim cannot be written: File too large"):
        process.run_limited(command, what="onnxsim", seconds=20, gibibytes=1, max_file_bytes=1 << 20)
    with limited(), pytest.raises(ResourceExhausted, match=r"^model\.onnx cannot be written"):
        process.run_limited(
            command, what="onnxsim", seconds=20, gibibytes=1, max_file_bytes=1 << 20, output=Path("model.onnx")
        )


def test_a_run_that_exceeds_a_limit_names_the_file_and_keeps_the_old_run(run_copy: Path) -> None:
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    with (
        limited(1000),
        pytest.raises(ResourceExhausted, match=rf"^{run_copy}/load/weights.safetensors cannot be written"),
    ):
        deploytool.export(TINY, quick=True, seed=1, out=run_copy)
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before
    assert not [path for path in run_copy.parent.iterdir() if path != run_copy]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (999, "999 B"),
        (999.6, "1.0 KB"),
        (1500, "1.5 KB"),
        (99_940, "99.9 KB"),
        (99_960, "100 KB"),
        (999_499, "999 KB"),
        (999_600, "1.0 MB"),
        (130e6, "130 MB"),
        (2_147_483_648, "2.1 GB"),
    ],
)
def test_sizes_have_a_suitable_unit(number: float, expected: str) -> None:
    assert disk.size(number) == expected


def test_too_little_free_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # the result of shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 13_000_000))
    disk.check(tmp_path / "deep" / "run", 12e6, "a run")
    with pytest.raises(ResourceExhausted, match=r"deep/run has 13.0 MB free, and a run takes 14.0 MB"):
        disk.check(tmp_path / "deep" / "run", 14e6, "a run")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 0))  # as for /proc
    disk.check(tmp_path, 14e6, "a run")


@pytest.mark.integration
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.parametrize("kilobytes", [4, 40, 160])
def test_a_full_disk_names_the_file(tmp_path: Path, kilobytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "check", lambda *_: None)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        with pytest.raises(ResourceExhausted, match=rf"^{tmp_path}/run/\S+ cannot be written: No space left on device"):
            deploytool.export(TINY, quick=True, to="onnx", images=4, rewrite="original", out=tmp_path / "run")
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_copy_of_a_bundle_that_does_not_fit_names_its_path(packed: Path, tmp_path: Path) -> None:
    with limited(), pytest.raises(ResourceExhausted, match=rf"^{tmp_path / 'out'}\S* cannot be written"):
        pack._copy(packed, tmp_path / "out")
    assert not list(tmp_path.iterdir())
