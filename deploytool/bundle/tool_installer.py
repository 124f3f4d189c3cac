"""Installs deploytool from a bundle into an environment of its own, offline, and proves the bundle with it.

    python3 BUNDLE/tool/install.py ENV [arguments of verify]

It stands in the bundle as `tool/install.py` and runs before deploytool is on the device: it imports nothing of it. With
`--install-only` the bundle is not proved, and of its files only the manifest and the folder `tool` must be there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

_USAGE = "python3 BUNDLE/tool/install.py ENV [--digest DIGEST] [--install-only] [further arguments of verify]"
_INSTALL_ONLY, _PIP = "--install-only", "pip"
_OLDEST = (3, 10)
_NEEDED = "deploytool "  # the lines of `pip check` that matter: other packages may lack what deploytool does not use


class Failure(Exception):
    """A problem and its remedy, in one line."""


def main(arguments: list[str]) -> int:
    """Makes the environment, installs the wheels and verifies the bundle; returns the exit code."""
    if len(arguments) < 1 or arguments[0].startswith("-"):
        _say(f"usage: {_USAGE}")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        bundle, environment = Path(__file__).resolve().parents[1], Path(arguments[0]).absolute()
        _check_python()
        names = _check_wheels(bundle, arguments[1:])
        _make(environment, bundle / "tool", names)
    except Failure as failure:
        _say(f"error: {failure}", 2)
        return 2
    except OSError as error:
        _say(f"error: {error.filename or 'a file'}: {error.strerror}", 2)
        return 2
    _say(f"{environment}: deploytool is installed; {_program(environment)} -m deploytool.device has its commands")
    if _INSTALL_ONLY in arguments:
        return 0
    command = [str(_program(environment)), "-I", "-m", "deploytool.device", "verify", str(bundle), *arguments[1:]]
    return subprocess.call(command)


def _say(text: str, descriptor: int = 1) -> None:
    """Writes a line; what a terminal would execute, in names from elsewhere, is escaped."""
    visible = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    os.write(descriptor, f"{visible}\n".encode(errors="replace"))


def _check_python() -> None:
    if sys.version_info < _OLDEST:
        wanted = ".".join(map(str, _OLDEST))
        raise Failure(f"this is Python {sys.version.split()[0]}, and deploytool needs {wanted}: use a newer python3")


def _check_wheels(bundle: Path, arguments: list[str]) -> list[str]:
    """The names of the packages, once every file of the folder has the digest that the manifest states."""
    manifest = (bundle / "manifest.json").read_bytes()
    digest = hashlib.sha256(manifest).hexdigest()
    if "--digest" in arguments[:-1] and arguments[arguments.index("--digest") + 1].lower() != digest:
        raise Failure(f"{bundle} has the digest {digest}, not the one given: get the bundle again")
    try:
        listed = {Path(entry["path"]).name: entry["sha256"] for entry in json.loads(manifest)["tool"]}
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"{bundle} has no valid manifest with a tool: pack it again with --with-tool") from error
    present = {path.name: path for path in (bundle / "tool").iterdir()}
    if different := sorted(set(listed) ^ set(present)):
        raise Failure(f"tool/{different[0]} is missing or not in the manifest: get the bundle again")
    for name, path in present.items():
        if path.is_symlink() or _digest(path) != listed[name]:
            raise Failure(f"tool/{name} is not the file of the manifest: get the bundle again")
    return sorted({name.split("-")[0] for name in present if name.endswith(".whl")})


def _digest(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def _make(environment: Path, wheels: Path, names: list[str]) -> None:
    """Makes the environment beside its place and renames it; it sees the packages of the system, such as TensorRT.

    It is made without pip where the wheels have one: Debian's Python without python3-venv has none to give.
    """
    if environment.exists():
        raise Failure(f"{environment} exists: remove it, or choose another folder")
    unfinished = environment.with_name(f".{environment.name}.{os.getpid()}.making")
    free = shutil.disk_usage(environment.parent).free
    try:
        try:
            venv.create(unfinished, system_site_packages=True, with_pip=_PIP not in names, prompt=environment.name)
        except (subprocess.CalledProcessError, ImportError) as error:
            raise Failure(
                "this Python cannot make an environment with pip: install python3-venv (Debian, Ubuntu), or pack pip's "
                "wheel too, with --with-tool --wheel FILE"
            ) from error
        pip = _pip_of(unfinished, wheels, names)
        _install(pip, wheels, [name for name in names if name != _PIP], free)
        _set_programs(unfinished, environment)
        _publish(unfinished, environment)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _pip_of(environment: Path, wheels: Path, names: list[str]) -> list[str]:
    """The start of a command line that runs pip for an environment: its own, or that of the wheels, from the wheel."""
    python = [str(_program(environment)), "-I"]
    if _PIP not in names:
        return [*python, "-m", "pip"]
    return [*python, str(next(wheels.glob(f"{_PIP}-*.whl")) / _PIP)]


def _publish(unfinished: Path, environment: Path) -> None:
    """Renames a complete environment to its place, once the disk has all of it."""
    if hasattr(os, "sync"):
        os.sync()
    unfinished.replace(environment)


def _install(pip: list[str], wheels: Path, names: list[str], free: int) -> None:
    """Installs the wheels that fit this machine, without a network, and checks what deploytool itself requires.

    `free` is the number of bytes that the disk had before.
    """
    done = _run(pip, "install", "--no-index", "--no-deps", "--find-links", str(wheels), *names)
    needed = _installed_size(wheels)
    if done.returncode and free < needed:
        raise Failure(f"the disk had {free / 1e6:.0f} MB free, and the wheels take up to {needed / 1e6:.0f} MB")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or ["pip failed"]
        fits = "is there a wheel for this Python and processor?"
        raise Failure(f"the wheels cannot be installed: {lines[-1].removeprefix('ERROR: ')}; {fits}")
    lacking = [line for line in _run(pip, "check").stdout.splitlines() if line.startswith(_NEEDED)]
    if lacking:
        raise Failure(f"{lacking[0].rstrip('.')}: pack it too, with --with-tool --wheel FILE")


def _installed_size(wheels: Path) -> int:
    """The bytes of all files in the wheels, also in those for other machines."""
    size = 0
    for path in wheels.glob("*.whl"):
        with zipfile.ZipFile(path) as archive:
            size += sum(entry.file_size for entry in archive.infolist())
    return size


def _run(pip: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*pip, "--disable-pip-version-check", "--no-input", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _program(environment: Path) -> Path:
    """The Python of an environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _set_programs(unfinished: Path, environment: Path) -> None:
    """Makes the programs of the environment, whose first line names their Python, work in its final place."""
    for path in _program(unfinished).parent.iterdir():
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            path.write_bytes(content.replace(os.fsencode(unfinished), os.fsencode(environment)))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
