"""Rules of the project: layers, imports, stage declarations, output to the terminal, and file length."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from deploytool.backends.session import load_backend
from deploytool.results.artifact import Kind
from deploytool.spec import Options, SourceKind
from deploytool.stages import registry
from deploytool.stages.registry import GIVEN_GRAPH, STAGES, Contract
from tests.conftest import ROOT
from tests.heavy_modules import HEAVY_MODULES

PACKAGE = ROOT / "deploytool"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.stat().st_size)
BACKENDS = (
    "eager",
    "eager_variants",
    "fp16_emulation",
    "given_graph",
    "int8_emulation",
    "onnxruntime",
    "reference",
    "tensorrt",
    "torchscript",
)
IMPORTS = grimp.build_graph("deploytool")
HEAVY = (
    *("torch", "safetensors", "onnx", "onnxruntime", "onnxsim", "tensorrt", "tensorrt_rtx", "cuda", "PIL"),
    *("cryptography", "model_signing", "jinja2", "matplotlib", "transformers", "timm", "huggingface_hub"),
    *("distributed", "dask", "dask_jobqueue"),
)
CONTRACTS = {
    **{registry.file_name(stage, SourceKind.CODE): contract for stage, contract in STAGES.items()},
    **{registry.file_name(stage, SourceKind.GRAPH): contract for stage, contract in GIVEN_GRAPH.items()},
}  # of every file of a stage
JOB_READERS = {
    "load": ("model_checks/probe.py",),
    "load_graph": ("model_checks/probe.py",),
    "metric": ("parity/checks.py", "data/labels/read.py"),
    "validate": ("parity/checks.py", "benchmark/quick.py"),
}  # files to which a stage passes its job or its options
HEAVY_PACKAGES = (  # packages that need torch or onnx
    *(
        "deploytool.loading.module",
        "deploytool.loading.graph",
        "deploytool.loading.checkpoints",
        "deploytool.faults.kinds",
        "deploytool.model_checks",
        "deploytool.rewrites.graph",
        "deploytool.rewrites",
    ),
    *("deploytool.blame", "deploytool.training"),
)
PILLOW_PACKAGES = ("deploytool.device", "deploytool.diff")  # they need Pillow only
REPORT_PACKAGE = "deploytool.report"  # needs matplotlib, jinja2 and Pillow


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def dotted(node: ast.AST) -> str:
    """The dotted name of a name with its attributes; for another expression, its attributes with a leading dot."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def used_names(path: Path) -> Iterator[str]:
    """Every dotted name that a file uses or imports."""
    for node in nodes(path):
        if isinstance(node, (ast.Name, ast.Attribute)):
            yield dotted(node)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def sources(name: str) -> Iterator[ast.AST]:
    """The syntax nodes of a stage's file, and of those to which it passes its job."""
    for path in (PACKAGE / "stages" / f"{name}.py", *(PACKAGE / reader for reader in JOB_READERS.get(name, ()))):
        yield from nodes(path)


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def project_copy(tmp_path: Path) -> Path:
    """A copy of the packages and their import contracts that a test may change."""
    skip = shutil.ignore_patterns("__pycache__")
    for folder in ("deploytool", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("deploytool/results/receipt.py", "from deploytool import pipeline", "Imports go down only"),
        ("deploytool/spec.py", "from deploytool.host import machine", "Imports go down only"),
        ("deploytool/attic.py", "", "Imports go down only"),
        ("deploytool/stages/fp16.py", "from deploytool.stages import simplify", "Stages do not import each other"),
        ("deploytool/parity/metrics.py", "import torch", "Each heavy library is imported"),
        ("deploytool/device/environment.py", "import typer", "A device needs none of the host's libraries"),
        ("deploytool/parity/replay.py", "import onnx", "A device needs none of the host's libraries"),
        ("deploytool/device/verify.py", "import cryptography", "Each heavy library is imported"),
        ("deploytool/cli/summary.py", "import matplotlib", "Each heavy library is imported"),
        ("deploytool/report/run_data.py", "import onnx", "The report is made from what a run left"),
        ("models/layers.py", "from deploytool.host import machine", "Model definitions import"),
    ],
)
def test_a_broken_import_contract_is_detected(project_copy: Path, file: str, line: str, contract: str) -> None:
    with (project_copy / file).open("a") as opened:
        opened.write(f"\n{line}\n")
    done = lint_imports(project_copy)
    assert done.returncode != 0
    broken = [" ".join(part.split()) for part in re.split(r"\b(?:KEPT|BROKEN)\b", done.stdout)]
    assert any(contract in part for part in broken)
    assert "BROKEN" in done.stdout or "Missing layer" in done.stdout or "unmatched" in done.stdout.lower()


def test_the_import_contracts_are_kept() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_stage_satisfies_its_protocol(name: str) -> None:
    make, protocol = registry.import_stage(name).make, registry.StageModule.make
    assert list(inspect.signature(make).parameters) == list(inspect.signature(protocol).parameters)[1:]


@pytest.mark.parametrize(("name", "contract"), CONTRACTS.items(), ids=CONTRACTS)
def test_a_stage_declares_every_package_whose_code_it_runs(name: str, contract: Contract) -> None:
    """Exactly what it imports, directly or not: otherwise results would be reused or repeated wrongly."""
    imported = IMPORTS.find_upstream_modules(f"deploytool.stages.{name}") - {
        "deploytool",
        "deploytool.stages.registry",
    }
    packages = {module.split(".")[1] for module in imported}
    declared = {package.removesuffix(".py") for package in (*registry.COMMON_PACKAGES, *contract.packages)}
    assert packages | {"host", "results", "serde"} == declared


def test_every_stage_file_is_in_the_table() -> None:
    assert {path.stem for path in (PACKAGE / "stages").glob("[a-z]*.py")} == {*CONTRACTS, "registry"}


@pytest.mark.parametrize(("name", "contract"), CONTRACTS.items(), ids=CONTRACTS)
def test_a_stage_reads_only_the_options_it_declares(name: str, contract: Contract) -> None:
    read = {
        node.attr
        for node in sources(name)
        if isinstance(node, ast.Attribute)
        and "options" in (getattr(node.value, "attr", ""), getattr(node.value, "id", ""))
    }
    assert read == set(contract.options)
    assert read <= set(Options.__dataclass_fields__)


ACCESSORS = {
    "golden": Kind.GOLDEN,
    "source": Kind.WEIGHTS,
    "fp32_graph": Kind.GRAPH,
}  # methods of StageInputs that load an artifact


@pytest.mark.parametrize(("name", "contract"), CONTRACTS.items(), ids=CONTRACTS)
def test_a_stage_uses_only_the_artifacts_it_declares(name: str, contract: Contract) -> None:
    used = {
        Kind[node.args[0].attr]
        for node in sources(name)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"latest", "chain"}
        and isinstance(node.args[0], ast.Attribute)
    }
    methods = {dotted(node.func) for node in sources(name) if isinstance(node, ast.Call)}
    used |= {kind for name, kind in ACCESSORS.items() if f"inputs.{name}" in methods}
    assert used == {*contract.requires, *contract.optional}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_satisfies_its_protocol(name: str) -> None:
    backend = load_backend(name)
    assert isinstance(backend.fingerprint(), str)
    path, device = list(inspect.signature(backend.start).parameters.values())[:2]
    assert (path.name, device.name) == ("path", "device")
    assert device.default in ("cpu", "cuda")
    rest = list(inspect.signature(backend.start).parameters.values())[2:]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in rest)


def test_only_the_listed_modules_need_a_heavy_library() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES
        if path.name != "__main__.py"
    ]
    program = f"""
import importlib, json, sys
for heavy in {HEAVY!r}:
    sys.modules[heavy] = None
failed = []
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ImportError:
        failed.append(name)
print(json.dumps(failed))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    known = (*HEAVY_PACKAGES, *PILLOW_PACKAGES, REPORT_PACKAGE)
    assert {name for name in json.loads(done.stdout) if not name.startswith(known)} == set(HEAVY_MODULES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_reads_the_environment_and_exits(path: Path) -> None:
    if "cli" in path.relative_to(PACKAGE).parts or path.name == "__main__.py":
        return
    if path == PACKAGE / "host" / "machine.py":  # OMP_NUM_THREADS, as torch and NumPy read it
        assert set(used_names(path)) & {"os.environ"}
        return
    assert not {"input", "exit", "os.environ", "os.getenv", "sys.exit"} & set(used_names(path))


TERMINAL, CONSOLE = (
    PACKAGE / "host" / "terminal.py",
    PACKAGE / "cli" / "console.py",
)  # they escape control characters
STREAMS = {f"sys.{name}" for name in ("stdout", "stderr", "__stdout__", "__stderr__")}
PRINTERS = {"print", "pprint", "rich.print", "typer.echo", "typer.secho", "click.echo", "traceback.print_exc"}
PIPES = {
    "worker.py",
    "provider_worker.py",
    "tensorrt_worker.py",
    "ssh_receiver.py",
    "agent.py",
    "interrupt.py",
    "tool_installer.py",
}  # they use os.write: to a parent process, escaped by themselves, or for a constant message on an interrupt


def direct_output(path: Path) -> Iterator[str]:
    """Every call or name by which a file writes to a terminal without `host/terminal.py`."""
    yield from (STREAMS | PRINTERS) & set(used_names(path))
    for node in nodes(path):
        name = dotted(node.func) if isinstance(node, ast.Call) else ""
        if name == "os.write" and path.name not in PIPES:
            yield name
        if (name == "Console" or name.endswith(".print")) and path != CONSOLE:
            yield name
        if name in ("getattr", "setattr") and isinstance(node, ast.Call) and dotted(node.args[0]) == "sys":
            yield name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_terminal_py_writes_to_the_terminal(path: Path) -> None:
    assert path == TERMINAL or not [*direct_output(path)]


def test_everything_printed_has_its_control_characters_escaped() -> None:
    """The console prints only escaped text, a table of escaped cells, or an empty line."""
    printed = [
        node.args for node in nodes(CONSOLE) if isinstance(node, ast.Call) and dotted(node.func) == "console.print"
    ]
    assert {ast.unparse(arguments[0]) if arguments else "" for arguments in printed} == {
        "",
        "Text(terminal.visible(text))",
        "_build_table(columns, cells)",
    }
    source = CONSOLE.read_text(encoding="utf-8")
    assert "cells = [tuple(terminal.visible(cell) for cell in row) for row in rows]" in source
    assert "table.add_row(*map(Text, row))" in source


@pytest.mark.parametrize(
    "line",
    [
        *("print(1)", "sys.stdout.write('')", "console.print('x')", "getattr(sys, 'stdout')", "os.write(1, b'')"),
        *("typer.echo('')", "from rich.console import Console; Console()", "from sys import stdout"),
    ],
)
def test_direct_output_is_detected(line: str, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(f"import os, sys\n{line}\n")
    assert [*direct_output(tmp_path / "odd.py")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_has_at_most_400_lines_and_a_docstring(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400
    docstring = ast.get_docstring(ast.parse("\n".join(lines)))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", "?"))


PUBLIC = {PACKAGE / "__init__.py", PACKAGE / "device" / "__init__.py"}  # they import their functions when first used


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_only_the_public_packages_have_code(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    statements = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    assert bool(statements) is (path in PUBLIC)


def test_no_file_has_a_meaningless_name() -> None:
    meaningless = re.compile("manager|helper|utils?|base|common|core|handler|processor|wrapper")
    names = [path.stem for folder in ("deploytool", "models", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert not [name for name in names if meaningless.fullmatch(name) or meaningless.search(name.replace("_", " "))]


def test_the_top_level_has_only_the_listed_entries() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {name.split("/")[0] for name in tracked if not name.startswith(".")}
    folders = {"artifacts", "deploytool", "docs", "models", "tests"}
    assert top == folders | {"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "constraints.txt", "pyproject.toml"}
