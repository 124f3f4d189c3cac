"""Rules of packaging: pinned versions, and what the wheel contains."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import tomllib

from tests.conftest import ROOT


def test_every_required_package_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = [
        *project["dependencies"],
        *extras["export"],
        *extras["cpu"],
        *extras["dev"],
        *extras["sign"],
        *extras["verify"],
    ]
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in required} - {"deploytool"}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert names <= pinned
    assert "torch>=2.11" in required


def test_the_wheel_contains_the_zoo_and_only_the_package_deploytool(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")  # built above, so trusted
    assert "deploytool/models/specs.py" in names
    assert {"deploytool/report/report.schema.json", "deploytool/report/templates/page.css"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"deploytool"}
    program = (
        "from deploytool.loading import catalog, factory; print(catalog.find('mixnet_s').name, factory.zoo_folder())"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{program}"]
    stdout = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert stdout.split() == ["mixnet_s", str(tmp_path / "site" / "deploytool" / "models")]
