"""A bundle with deploytool in it: what is packed, what is refused, and the installation on a bare device, offline."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from deploytool.bundle import tool, tool_installer, tool_wheel
from deploytool.bundle.manifest import Role, all_files, check_files, content_digest, read_manifest
from deploytool.errors import BadInput, Refused
from deploytool.pipeline import runner
from deploytool.spec import Options, Stage
from tests.conftest import QUICK, ROOT, Command


def wheel(folder: Path, name: str, version: str, *requires: str, tag: str = "py3-none-any") -> Path:
    """A wheel of one empty module."""
    path, info = folder / f"{name}-{version}-{tag}.whl", f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def bundle(folder: Path, *wheels: Path) -> Path:
    """A folder with a tool and no model, in which `deploytool.device` of the wheel says what it was asked."""
    (folder / "tool").mkdir(parents=True)
    shutil.copy(tool_installer.__file__, folder / "tool" / tool.INSTALLER)
    for path in wheels:
        shutil.copy(path, folder / "tool")
    write_manifest(folder)
    return folder


def write_manifest(folder: Path) -> str:
    """Writes a manifest of the tool alone, and returns its digest."""
    files = [
        {"path": f"tool/{path.name}", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in (folder / "tool").iterdir()
    ]
    (folder / "manifest.json").write_text(json.dumps({"tool": files}))
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def install(folder: Path, *arguments: str | Path, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [python, "-I", str(folder / "tool" / tool.INSTALLER), *map(str, arguments)]
    offline = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    offline["PIP_INDEX_URL"] = "http://127.0.0.1:9/"  # nothing listens there
    done = subprocess.run(command, env=offline, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_wheel_is_that_of_the_build_backend(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, capture_output=True, check=True)
    (path,) = tmp_path.glob("*.whl")
    assert path.name == tool_wheel.name()
    with zipfile.ZipFile(path) as built, zipfile.ZipFile(io.BytesIO(tool_wheel.content())) as ours:
        assert sorted(ours.namelist()) == sorted(built.namelist())
        same = [name for name in built.namelist() if not name.endswith(("RECORD", "WHEEL", "METADATA"))]
        assert all(ours.read(name) == built.read(name) for name in same)


def test_equal_files_make_an_equal_wheel_with_a_digest() -> None:
    assert tool_wheel.content() == tool_wheel.content()
    assert tool_wheel.digest() == tool_wheel.digest()


def test_without_an_installation_there_is_no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(tool_wheel, "distribution", missing)
    with pytest.raises(BadInput, match="is not installed here"):
        tool_wheel.name()


def test_what_is_no_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd-1.0-py3-none-any.whl").write_text("text")
    good, other = wheel(tmp_path, "numpy", "2.0"), tmp_path / "other"
    other.mkdir()
    again = Path(shutil.copy(good, other))
    own = Path(shutil.copy(good, tmp_path / tool_wheel.name()))
    for paths, problem in (
        ([tmp_path / "odd.zip"], "has not the name of a wheel"),
        ([tmp_path / "absent-1.0-py3-none-any.whl"], "is not a wheel"),
        ([tmp_path / "odd-1.0-py3-none-any.whl"], "is not a wheel"),
        ([good, again], "is given twice"),
        ([own], "is made by --with-tool itself"),
    ):
        with pytest.raises(BadInput, match=problem):
            tool.wheels(paths)
    assert tool.wheels([good])[0].digest == hashlib.sha256(good.read_bytes()).hexdigest()


def test_the_tool_is_in_the_manifest_and_not_in_the_content_digest(packed: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(packed.parents[1], tmp_path / "run"))
    extra = wheel(tmp_path, "numpy", "9.0")
    options = Options(**{**vars(QUICK), "tool": tool_wheel.digest(), "wheels": tool.wheels([extra])})
    folder = runner.extend(Stage.PACK, options, home).path.parent
    manifest = read_manifest(folder)
    names = [f"tool/{tool_wheel.name()}", "tool/install.py", f"tool/{extra.name}"]
    assert sorted(file.path for file in manifest.tool) == sorted(names)
    assert {file.role for file in all_files(manifest) if file.path in names} == {Role.TOOL}
    assert content_digest(manifest) == content_digest(read_manifest(packed))
    assert read_manifest(packed).tool == ()
    (folder / "tool" / extra.name).write_bytes(b"another")
    with pytest.raises(Refused, match=r"numpy-9\.0"):
        check_files(folder, manifest)


def test_a_wheel_without_the_tool_is_refused(deploytool: Command, tmp_path: Path) -> None:
    done = deploytool("pack", str(tmp_path), "--wheel", str(wheel(tmp_path, "numpy", "2.0")))
    assert done.returncode == 2
    assert "--wheel adds to --with-tool" in done.stderr


def test_bytes_that_the_manifest_does_not_list_are_not_installed(tmp_path: Path) -> None:
    folder, environment = bundle(tmp_path / "bundle", wheel(tmp_path, "deploytool", "0.1")), tmp_path / "env"
    digest = write_manifest(folder)
    changes: tuple[tuple[Callable[[], object], str], ...] = (
        (lambda: (folder / "tool" / "numpy-9-py3-none-any.whl").write_bytes(b"x"), "is missing or not in the manifest"),
        (lambda: (folder / "tool" / "deploytool-0.1-py3-none-any.whl").write_bytes(b"x"), "is not the file of the"),
        (lambda: (folder / "manifest.json").write_text("{}"), "has no valid manifest with a tool"),
    )
    for change, problem in changes:
        kept = Path(shutil.copytree(folder, tmp_path / "kept"))
        change()
        done = install(folder, environment)
        assert (done.returncode, problem in done.stderr, len(done.stderr.splitlines())) == (2, True, 1), done.stderr
        shutil.rmtree(folder)
        kept.rename(folder)
    done = install(folder, environment, "--digest", "0" * 64)
    assert digest in done.stderr
    assert not environment.exists()


def test_the_program_says_how_it_is_called_and_keeps_what_exists(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle", wheel(tmp_path, "deploytool", "0.1"))
    assert (install(folder).returncode, install(folder, "--help").returncode) == (2, 0)
    done = install(folder, folder / "tool")
    assert done.stderr == f"error: {folder / 'tool'} exists: remove it, or choose another folder\n"


def test_an_old_python_is_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    assert tool_installer.main(["env"]) == 2
    assert "deploytool needs 3.10: use a newer python3" in capfd.readouterr().err


@pytest.mark.integration
def test_what_deploytool_lacks_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    needy = wheel(tmp_path, "deploytool", "0.1", "wanted>=2")
    done = install(bundle(tmp_path / "lacking", needy), tmp_path / "env")
    assert "deploytool 0.1 requires wanted, which is not installed: pack it too" in done.stderr
    foreign = wheel(tmp_path, "wanted", "2.0", tag="cp310-cp310-win_arm64")
    done = install(bundle(tmp_path / "foreign", needy, foreign), tmp_path / "env")
    assert "No matching distribution found for wanted" in done.stderr
    assert {path.name for path in tmp_path.iterdir() if "env" in path.name} == set()


@pytest.mark.integration
def test_a_disk_that_was_too_small_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel fits no machine, so that the installation fails; the disk is what is said to be the reason."""
    folder = bundle(tmp_path / "bundle", wheel(tmp_path, "deploytool", "0.1", tag="cp310-cp310-win_arm64"))
    usage = shutil.disk_usage(tmp_path)
    for free, problem in ((60, "the disk had 0 MB free, and the wheels take up to 0 MB"), (usage.free, "No matching")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        with pytest.raises(tool_installer.Failure, match=problem):
            tool_installer._make(tmp_path / "env", folder / "tool", ["deploytool"])
    assert not list(tmp_path.glob("*env*"))


@pytest.mark.sweep
def test_a_bare_device_installs_and_proves_a_bundle_offline(packed: Path, tmp_path: Path) -> None:
    """From a Python without packages to a proved bundle with one command; wheels are fetched here, on the host."""
    needed = ["numpy", "pillow", "onnxruntime"]
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*fetch, "-d", str(tmp_path / "wheels"), *needed], check=True, capture_output=True)
    home, python = Path(shutil.copytree(packed.parents[1], tmp_path / "run")), tmp_path / "bare" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "bare")], check=True)
    wheels = tool.wheels(sorted((tmp_path / "wheels").iterdir()))
    options = Options(**{**vars(QUICK), "tool": tool_wheel.digest(), "wheels": wheels})
    folder = runner.extend(Stage.PACK, options, home).path.parent
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    done = install(folder, tmp_path / "env", "--digest", digest, "--require", "cpu", python=str(python))
    assert done.returncode == 0, done.stderr
    assert "It works here: ORT CPU serves." in done.stdout
    entry = tmp_path / "env" / "bin" / "deploytool"
    assert subprocess.run([entry, "verify", str(folder)], cwd=tmp_path, check=False).returncode == 0
