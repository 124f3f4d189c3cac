"""The folder `tool` of a bundle: the wheels of deploytool and of what it needs, and the program that installs them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from deploytool import serde
from deploytool.bundle import tool_wheel
from deploytool.bundle.manifest import TOOL_FOLDER, File, Role, describe_file
from deploytool.errors import BadInput
from deploytool.host import disk, files
from deploytool.spec import Source

INSTALLER = "install.py"
_NAME = re.compile(r"[A-Za-z0-9_.]+-[A-Za-z0-9_.+]+(-[A-Za-z0-9_.]+){3,4}\.whl")
_REMEDY = "download it for the device: pip download --no-deps"


def wheels(paths: Sequence[Path]) -> tuple[Source, ...]:
    """Wheels of the user with their digests; raises BadInput for what is not a wheel, and for two of one name."""
    found: dict[str, Source] = {}
    for path in paths:
        if not _NAME.fullmatch(path.name):
            raise BadInput(f"{path} has not the name of a wheel", _REMEDY)
        if not path.is_file() or not zipfile.is_zipfile(path):
            raise BadInput(f"{path} is not a wheel", _REMEDY)
        if path.name in found:
            raise BadInput(f"{path.name} is given twice", "leave one of them out")
        if path.name == tool_wheel.name():
            raise BadInput(f"{path.name} is made by --with-tool itself", "leave it out")
        found[path.name] = Source(str(path), serde.file_digest(path))
    return tuple(found.values())


def write(folder: Path, given: Sequence[Source]) -> tuple[File, ...]:
    """Writes deploytool's wheel, the given ones and the installer into a bundle; returns their entries."""
    target = folder / TOOL_FOLDER
    target.mkdir()
    disk.write(target / tool_wheel.name(), tool_wheel.content())
    disk.write(target / INSTALLER, Path(__file__).with_name("tool_installer.py").read_bytes())
    for wheel in given:
        path = Path(wheel.path)
        files.verify_file(path, path.stat().st_size, wheel.digest, target / path.name)
    names = sorted(path.name for path in target.iterdir())
    return tuple(describe_file(folder, f"{TOOL_FOLDER}/{name}", Role.TOOL) for name in names)
