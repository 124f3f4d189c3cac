"""Links, paths, options, exit codes and tolerances in the README and the pages exist and match the code."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import tomllib
import typer

from deploytool import errors
from deploytool.api import Run
from deploytool.cli.app import app
from deploytool.parity import metrics
from deploytool.results.report import COARSEST
from deploytool.rewrites.recipes import ORIGINAL, RECIPES
from tests.conftest import ROOT, Command
from tests.docs.pages import PAGES, prose

README, INDEX = ROOT / "README.md", ROOT / "docs" / "README.md"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
GROUP: Any = typer.main.get_command(app)
COMMANDS = [GROUP.get_command(None, name) for name in GROUP.list_commands(None)]
ELSEWHERE = {"--no-deps", "--model-repository", "--show", "--install-only"}  # of other programs and of tool/install.py
every_page = pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING], ids=lambda page: page.stem)


def links(page: Path) -> list[tuple[Path, str]]:
    """The targets of a page's links within the project: a file, and a heading or an empty string."""
    targets = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose(page))
    return [((page.parent / file).resolve() if file else page, heading) for file, heading in targets]


def headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 180


@every_page
def test_every_link_has_a_target(page: Path) -> None:
    for file, heading in links(page):
        assert file.exists(), file
        assert not heading or heading in headings(file), f"{file}#{heading}"


def test_every_page_is_in_both_indexes() -> None:
    pages = {*PAGES} - {README, INDEX}
    for index in (README, INDEX):
        assert pages <= {file for file, _ in links(index)}
    assert CONTRIBUTING in {file for file, _ in links(README)}


@every_page
def test_every_path_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:deploytool|models|tests)/[\w/]*(?:\.py|/))`", text):
        assert (ROOT / path).exists(), path


@every_page
def test_every_option_exists(page: Path) -> None:
    known = {
        name
        for command in COMMANDS
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    known |= {"--help", "--install-completion", *ELSEWHERE}
    spans = re.findall(r"`([^`\n]+)`", prose(page))
    named = {
        option for span in spans if "python -m tests." not in span for option in re.findall(r"--[a-z][\w-]+", span)
    }
    assert named <= known | _makefile_options()


def _makefile_options() -> set[str]:
    """The options in the Makefile, which are those of campaigns."""
    return set(re.findall(r"--[a-z][\w-]+", (ROOT / "Makefile").read_text()))


@every_page
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", prose(page))) <= targets


def test_every_command_is_in_the_readme() -> None:
    table = README.read_text(encoding="utf-8").partition("## Commands")[2].partition("\n## ")[0]
    assert set(GROUP.list_commands(None)) == set(re.findall(r"`([a-z]+)`", table))


def test_every_exit_code_is_listed(deploytool: Command) -> None:
    known = {kind.exit_code for kind in errors.DeployError.__subclasses__()} | {0, 130}
    page = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == known
    section = README.read_text(encoding="utf-8").partition("## Exit codes")[2].partition("\n## ")[0]
    epilog = re.search(r"Exit codes:(.*)", deploytool("--help").stdout, re.DOTALL)
    assert epilog is not None
    for text in (section, epilog[1]):
        assert {int(code) for code in re.findall(r"\b(\d+)\s+[a-z]", text)} == known


def test_the_documented_tolerances_match_the_code() -> None:
    page = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    for name, margin in (("FP32", metrics.MARGIN32), ("FP16", metrics.MARGIN16)):
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} ("))
        _, _, error, rms, top1, _ = (cell.strip() for cell in row.split("|"))
        assert (float(error.removesuffix("×")), float(rms.removesuffix("×"))) == (margin.max_error, margin.rms)
        assert top1 == "all"
    assert f"{COARSEST:.0%}" in page


def test_every_stage_is_in_the_architecture() -> None:
    stages = {path.name for path in (ROOT / "deploytool" / "stages").glob("[a-z]*.py")} - {"registry.py"}
    assert stages == set(re.findall(r"^\| \w+ \| `deploytool/stages/(\w+\.py)` \|", ARCHITECTURE, re.MULTILINE))


def test_the_documented_layers_are_those_enforced() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = re.findall(r"^```text\n(.*?)^```", ARCHITECTURE, re.DOTALL | re.MULTILINE)
    assert layers.splitlines() == contracts[0]["layers"]


def test_every_name_in_the_architecture_exists_in_its_file() -> None:
    named = re.findall(r"((?:`\w+`(?: and )?)+) in `([\w/]+\.py)`", ARCHITECTURE)
    assert len(named) >= 12
    for names, file in named:
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(?:class |def )?{name}\b", (ROOT / file).read_text(), re.MULTILINE), f"{name}: {file}"


def test_the_documented_attributes_of_a_run_match_the_code() -> None:
    table = (ROOT / "docs" / "python.md").read_text(encoding="utf-8").partition("| attribute |")[2]
    named = set(re.findall(r"`(\w+)(?:\(\))?`", "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE))))
    assert named | {"report_json", "report_html"} == {name for name in dir(Run) if name[0] != "_"} | {
        field.name for field in dataclasses.fields(Run)
    }


def test_the_documented_rewrite_recipes_match_the_code() -> None:
    page = (ROOT / "docs" / "rewrites.md").read_text(encoding="utf-8")
    named = re.findall(r"by the recipes ([^.]*?), and", page, re.DOTALL)
    assert {ORIGINAL, *re.findall(r"`([\w-]+)`", named[0])} == set(RECIPES)
