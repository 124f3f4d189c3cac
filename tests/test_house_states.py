"""States are data: no code decides on the text of a message, and stage names are written in one file only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from deploytool.spec import Stage
from tests.conftest import ROOT

PACKAGE = ROOT / "deploytool"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TEXT_METHODS = {"startswith", "endswith", "partition", "rpartition", "removeprefix", "removesuffix", "find", "index"}
FOREIGN: Mapping[str, str] = {  # files that test text of more than one word, and what that text is
    "loading/checkpoints/file_formats.py": "files of other programs: pointers of Git LFS, names in pickles",
    "bundle/tool_installer.py": "lines that pip prints",
    "cli/listing.py": "a heading of --help, which comes last",
    "diff/budgets.py": "figures, as a user writes them in a budget",
    "data/inputs_file.py": "numpy's message: it has no exception type for a pickle",
    "host/machine.py": "/proc/cpuinfo",
    "loading/code_files.py": "names that Python gives to the code of its frozen modules",
    "transfer/auth.py": "a header of HTTP",
    "transfer/http.py": "a header of HTTP",
    "transfer/login.py": "what ssh prints: it ends with 255 for every reason",
    "loading/user_code.py": "names that Python gives to the code of its frozen modules",
}
STAGE_NAMES = "|".join(stage for stage in Stage if stage is not Stage.GOLDEN)  # a bundle has a folder `golden` too
STAGE_IN_TEXT = re.compile(rf"\b({STAGE_NAMES})/|\bthe ({STAGE_NAMES}) stage\b|^({STAGE_NAMES}):")


def constants(tree: ast.Module) -> dict[str, ast.expr]:
    """The expression assigned to each name of a module."""
    values: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                is_tuple = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs = zip(target.elts, node.value.elts, strict=False) if is_tuple else [(target, node.value)]  # type: ignore[attr-defined]  # both are tuples
                values |= {name.id: value for name, value in pairs if isinstance(name, ast.Name)}
    return values


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
PUBLIC = {name: value for tree in TREES.values() for name, value in constants(tree).items() if name[0] != "_"}


def texts(node: ast.AST, known: Mapping[str, ast.expr]) -> Iterator[str]:
    """The strings in an expression; for a name, those of its value in `known`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
        yield node.value if isinstance(node.value, str) else node.value.decode("latin-1")
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
    elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        yield from (text for element in node.elts for text in texts(element, known))
    elif isinstance(node, (ast.Name, ast.Attribute)):
        value = known.get(node.id if isinstance(node, ast.Name) else node.attr)
        if isinstance(value, (ast.Constant, ast.JoinedStr, ast.Tuple)):
            yield from texts(value, known)


def operands(node: ast.AST) -> Sequence[ast.expr]:
    """The operands of a call of a string method, or of a comparison; empty for other nodes."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TEXT_METHODS:
        return (node.func.value, *node.args)
    if isinstance(node, ast.Compare) and any(isinstance(op, (ast.In, ast.NotIn, ast.Eq, ast.NotEq)) for op in node.ops):
        return (node.left, *node.comparators)
    return ()


def is_message(node: ast.expr, raised: set[str]) -> bool:
    """Whether an expression is the text of an exception, or the notes of an artifact."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
        return isinstance(node.args[0], ast.Name) and node.args[0].id in raised
    return "notes" in (getattr(node, "attr", ""), getattr(node, "id", ""))


def decisions(tree: ast.Module) -> Iterator[str]:
    """Every string test or comparison that depends on the text of a message."""
    known = {**PUBLIC, **constants(tree)}
    raised = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    for node in ast.walk(tree):
        compared = operands(node)
        sentences = (text for operand in compared for text in texts(operand, known) if " " in text)
        if any(sentences) or any(is_message(operand, raised) for operand in compared):
            yield f"{getattr(node, 'lineno', 0)}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_code_decides_on_the_text_of_a_message(path: Path) -> None:
    found = list(decisions(TREES[path]))
    assert bool(found) == (path.relative_to(PACKAGE).as_posix() in FOREIGN), found


@pytest.mark.parametrize(
    "line",
    [
        "late = status == 'built, not run'",
        "late = 'built, not run' != status",
        "late = status in ('measured', 'built, not run')",
        "late = '(the machine' in verdict",
        "word, _, why = status.partition(' (')",
        "kept = line.startswith('fp16: kept in FP32')",
        "kept = line.startswith(f'{stage}: kept in FP32')",
        "NO = 'no verdict'\nlate = verdict.startswith(NO)",
        "FAIL, NO = 'FAIL', 'no verdict'\nlate = verdict == NO",
        "half = 'weights' in artifact.notes",
        "half = 'weights' not in notes",
        "try:\n    run()\nexcept ValueError as error:\n    full = 'space' in str(error)",
        "try:\n    run()\nexcept ValueError as error:\n    full = str(error).removeprefix('it')",
    ],
)
def test_a_decision_on_a_message_is_detected(line: str) -> None:
    assert list(decisions(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "late = status is Status.MEASURED",
        "late = device == 'cpu'",
        "said = f'{status} ({why})'",
        "name.endswith('.py')",
    ],
)
def test_other_comparisons_are_allowed(line: str) -> None:
    assert not list(decisions(ast.parse(line)))


def words(tree: ast.Module) -> Iterator[str]:
    """Every string of a module except docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_stage_names_are_written_in_spec_py_only(path: Path) -> None:
    if path == PACKAGE / "spec.py":
        return
    found = list(words(ast.parse(path.read_text(encoding="utf-8"))))
    assert not [word for word in found if STAGE_IN_TEXT.search(word)]
