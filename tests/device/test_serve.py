"""The Python API for services."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import deploytool.device
from deploytool.bundle.manifest import read_manifest
from deploytool.data import golden
from deploytool.device import install, start_attempts, verify
from deploytool.device.candidates import Tier
from deploytool.device.probe import Attempt, ProbeResult
from deploytool.device.verify import Integrity
from deploytool.errors import BadInput, DeployError, NotVerified, Refused
from tests.conftest import PYTHONPATH, ROOT
from tests.device.keys import keys

SCALE = 1e-5
EMPTY = np.zeros((0, 5, 3), np.uint8)


def accept(checked: Integrity) -> None:
    """Accepts a bundle: its golden cases run when it is opened."""


@pytest.fixture
def root(packed: Path, tmp_path: Path) -> Path:
    install.install(packed, tmp_path / "root", accept)
    return tmp_path / "root"


def later_bundle(packed: Path, folder: Path) -> Path:
    """The same bundle with a higher sequence."""
    later = Path(shutil.copytree(packed, folder / "later"))
    text = (later / "manifest.json").read_text().replace('"sequence": 1', '"sequence": 2')
    (later / "manifest.json").write_text(text)
    return later


def test_paths_pixels_and_tensors_give_the_same_outputs(packed: Path, root: Path) -> None:
    sample = golden.read(packed / "golden" / "golden.npz")
    with deploytool.device.open(root) as model:
        assert model.tier == "ORT CPU"
        assert [each.tier for each in model.tried][-1] == "ORT CPU"
        by_path = model(packed / "golden" / "case_0.png")
        by_pixels = model(sample.pixels[0])
        by_tensor = model(sample.inputs["input"])
        outputs = model.run(input=sample.inputs["input"])
    assert by_path.shape == (1, 10)
    assert np.array_equal(by_path, by_pixels)
    assert np.abs(by_tensor - sample.reference["logits"]).max() < SCALE * np.abs(sample.reference["logits"]).max()
    assert np.allclose(by_path[0], by_tensor[0], rtol=0, atol=SCALE * np.abs(by_tensor).max())
    assert np.array_equal(outputs["logits"], by_tensor)


def test_a_bundle_can_be_opened_without_an_install(packed: Path) -> None:
    with deploytool.device.open(str(packed), require="cpu") as model:
        assert model(str(packed / "golden" / "case_1.png")).shape == (1, 10)


def test_more_cases_than_the_largest_batch_are_run(packed: Path) -> None:
    sample = golden.read(packed / "golden" / "golden.npz")
    many = np.resize(sample.inputs["input"], (70, *sample.inputs["input"].shape[1:]))
    with deploytool.device.open(packed) as model:
        assert model(many).shape == (70, 10)


def test_an_unsuitable_input_is_bad_input(packed: Path) -> None:
    with deploytool.device.open(packed) as model:
        for argument in (np.zeros((4, 4), np.uint8), np.zeros((1, 3, 32, 32)), np.zeros((3, 32, 32), np.float32)):
            with pytest.raises(BadInput, match="is not an image"):
                model(argument)
        with pytest.raises(BadInput, match="takes input, not image"):
            model.run(image=np.zeros((1, 3, 32, 32), np.float32))
        with pytest.raises(BadInput, match="input has shape"):
            model.run(input=np.zeros((1, 3, 32, 31), np.float32))
        with pytest.raises(BadInput, match="input is float64"):
            model.run(input=np.zeros((1, 3, 32, 32)))
        with pytest.raises(BadInput, match="cannot be read as a picture"):
            model(packed / "recipe.json")


@pytest.mark.parametrize(
    "argument", [None, 5, "text", [[1.0]], b"x", np.float32(1), np.array("x"), np.array(None), EMPTY]
)
def test_arguments_of_another_type_are_bad_input(packed: Path, argument: object) -> None:
    with deploytool.device.open(packed) as model:
        with pytest.raises(BadInput):
            model(argument)  # type: ignore[arg-type]  # that is the point
        with pytest.raises(BadInput):
            model.run(input=argument)  # type: ignore[arg-type]
        with pytest.raises(BadInput):
            model.run()


def test_a_required_backend_that_is_unavailable_is_an_error(packed: Path) -> None:
    with pytest.raises(NotVerified, match="trt is required"), deploytool.device.open(packed, require="trt"):
        pass


def test_a_changed_file_is_not_loaded(root: Path) -> None:
    folder = install.bundle_path(root, install.bundle_to_start(root).current)
    graph = folder / read_manifest(folder).graphs[0].path
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    with pytest.raises(Refused), deploytool.device.open(root):
        pass


def test_three_refused_starts_roll_back_to_the_previous_bundle(packed: Path, tmp_path: Path) -> None:
    install.install(packed, tmp_path / "root", accept)
    later = later_bundle(packed, tmp_path)
    digest = install.install(later, tmp_path / "root", accept).current
    (install.bundle_path(tmp_path / "root", digest) / "recipe.json").write_text("damaged")
    for _ in range(3):
        with pytest.raises(Refused), deploytool.device.open(tmp_path / "root"):
            pass
    with deploytool.device.open(tmp_path / "root") as model:
        assert model.manifest.sequence == 1
    pointer = install.read_pointer(tmp_path / "root")
    assert pointer is not None
    assert list(pointer.refused) == [digest]
    assert "other" in pointer.refused[digest]


def test_an_error_in_the_service_is_no_failed_start(root: Path) -> None:
    for _ in range(4):
        with pytest.raises(ZeroDivisionError), deploytool.device.open(root):
            raise ZeroDivisionError
    assert not list((root / "starts").rglob("*-*"))


def test_a_bundle_that_is_replaced_while_it_is_opened_is_opened_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another install may remove and install the same bundle again; its digest is the same."""
    original, files_to_remove = verify.check_integrity, ["golden/golden.npz"]

    def check_and_replace(folder: Path, args: verify.VerifyOptions) -> Integrity:
        if not files_to_remove:
            return original(folder, args)
        shutil.copytree(folder, folder.with_name("copy"))
        (folder / files_to_remove.pop()).unlink()
        try:
            return original(folder, args)
        finally:
            shutil.rmtree(folder)
            folder.with_name("copy").rename(folder)

    monkeypatch.setattr(verify, "check_integrity", check_and_replace)
    with deploytool.device.open(root) as model:
        assert model.manifest.sequence == 1
    assert not files_to_remove
    assert not list((root / "starts").rglob("*-*"))


def prevent_start(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Breaks this process or its machine as named, and returns the arguments for opening a model."""
    if name == "a key that is not there":
        return {"require_signature": str(tmp_path / "nokey.pem")}
    if name == "a key that has not signed it":
        return {"require_signature": str(keys(tmp_path, "theirs")[1])}
    if name == "an unknown backend":
        return {"require": "gpu"}
    if name == "a GPU whose driver is not up":
        return {"require": "cuda"}
    if name == "no folder for temporary files":
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    if name == "too many open files":
        monkeypatch.setattr(os, "open", raising(os.open, errno.EMFILE))
    if name == "an onnxruntime that is being upgraded":
        (tmp_path / "onnxruntime").mkdir()
        (tmp_path / "onnxruntime" / "__init__.py").write_text("raise ImportError('half of it')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if name == "no processes left":
        monkeypatch.setattr(subprocess, "Popen", raising(subprocess.Popen, errno.EAGAIN))
    return {}


def raising(original: Callable[..., object], number: int) -> Callable[..., object]:
    def raise_error(*args: object, **kwargs: object) -> object:
        raise OSError(number, os.strerror(number))

    assert callable(original)
    return raise_error


@pytest.mark.parametrize(
    "name",
    [
        "a key that is not there",
        "a key that has not signed it",
        "an unknown backend",
        "a GPU whose driver is not up",
        "no folder for temporary files",
        "too many open files",
        "an onnxruntime that is being upgraded",
        "no processes left",
    ],
)
def test_faults_of_the_caller_or_machine_are_no_failed_starts(
    name: str, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    install.install(packed, root, accept)
    later = later_bundle(packed, tmp_path)
    current = install.install(later, root, accept).current
    with monkeypatch.context() as patch:
        arguments = prevent_start(name, patch, tmp_path)
        for _ in range(4):
            with pytest.raises(DeployError) as caught, deploytool.device.open(root, **arguments):
                pass
            assert caught.value.remedy
    pointer = install.bundle_to_start(root)
    assert (pointer.current, dict(pointer.refused)) == (current, {})
    with deploytool.device.open(root) as model:
        assert model.manifest.sequence == 2


def test_a_bundle_whose_worker_dies_is_refused_with_the_reason(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    install.install(packed, root, accept)
    later = later_bundle(packed, tmp_path)
    digest = install.install(later, root, accept).current
    died = ProbeResult(Tier.ORT_CPU, "model.onnx", Attempt.FAILED, "it was killed by SIGSEGV", died=True)
    with monkeypatch.context() as patch:
        patch.setattr("deploytool.device.serve.probe.probe", lambda *args: died)
        for _ in range(3):
            with pytest.raises(NotVerified, match="SIGSEGV"), deploytool.device.open(root):
                pass
    with deploytool.device.open(root) as model:
        assert model.manifest.sequence == 1
    pointer = install.read_pointer(root)
    assert pointer is not None
    assert "SIGSEGV" in pointer.refused[digest]


_DIES = """
import os, sys
import deploytool.device
from deploytool.device import serve
serve.open_candidate = lambda candidate: os.abort()
with deploytool.device.open(sys.argv[1]):
    pass
"""


def test_a_process_that_dies_while_it_loads_is_a_failed_start_until_one_succeeds(root: Path) -> None:
    records = install.start_records(root, install.bundle_to_start(root).current)
    done = subprocess.run([sys.executable, "-c", _DIES, str(root)], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGABRT
    assert len(start_attempts.failures(records)) == 1
    with deploytool.device.open(root):
        assert not start_attempts.failures(records)


_BESIDE = "import json, sys; print(json.dumps(sorted(sys.modules)))"


def test_the_device_package_imports_no_library_of_the_host() -> None:
    program = f"import deploytool.device, deploytool.device.__main__, deploytool.device.worker; {_BESIDE}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not {"torch", "onnx", "onnxruntime", "onnxsim", "safetensors", "typer", "rich", "tensorrt_rtx"} & loaded


def test_the_import_costs_less_than_0_3_s_beyond_numpy() -> None:
    program = """
import time
before = time.process_time()
import numpy
between = time.process_time()
import deploytool.device
print(between - before, time.process_time() - between)
"""
    costs = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        costs.append(float(done.stdout.split()[1]))
    assert min(costs) < 0.3


def test_the_device_commands_work_without_the_libraries_of_the_host(packed: Path, tmp_path: Path) -> None:
    """The process and its children cannot import the libraries of the host."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxsim', 'safetensors', 'typer', 'rich'):\n"
        "    sys.modules[name] = None\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{PYTHONPATH}"}
    command = [sys.executable, "-m", "deploytool.device", "verify", str(packed), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["tier"] == "ORT CPU"
    command = [sys.executable, "-m", "deploytool", "models"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    assert "models is not a device command" in done.stderr
