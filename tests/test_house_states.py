"""States are data: nothing decides by a sentence, and the name of each stage stands in one place."""

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
QUESTIONS = {"startswith", "endswith", "partition", "rpartition", "removeprefix", "removesuffix", "find", "index"}
FOREIGN: Mapping[str, str] = {  # files that ask a text of more than one word, and why they may
    "loading/checkpoints/file_formats.py": "files of others: pointers of Git LFS, names in pickles",
    "cli/listing.py": "a heading of --help, which comes last",
    "diff/budgets.py": "places of figures, which a user writes in a budget",
    "data/inputs_file.py": "numpy's message: it has no exception of its own for a pickle",
    "host/machine.py": "/proc/cpuinfo",
    "loading/code_files.py": "names that Python gives to the code of its frozen modules",
    "transfer/auth.py": "a header of HTTP",
    "transfer/http.py": "a header of HTTP",
    "loading/user_code.py": "names that Python gives to the code of its frozen modules",
}
ANY = "|".join(stage for stage in Stage if stage is not Stage.GOLDEN)  # a bundle has a folder of that name too
NAMED = re.compile(rf"\b({ANY})/|\bthe ({ANY}) stage\b|^({ANY}):")


def constants(tree: ast.Module) -> dict[str, ast.expr]:
    """What is assigned to the names of a module, one by one."""
    found: dict[str, ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs = zip(target.elts, node.value.elts, strict=False) if several else [(target, node.value)]  # type: ignore[attr-defined]  # both are tuples
                found |= {name.id: value for name, value in pairs if isinstance(name, ast.Name)}
    return found


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
PUBLIC = {name: value for tree in TREES.values() for name, value in constants(tree).items() if name[0] != "_"}


def texts(node: ast.AST, known: Mapping[str, ast.expr]) -> Iterator[str]:
    """The texts that an expression is or holds; of a name, those that a module gave it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
        yield node.value if isinstance(node.value, str) else node.value.decode("latin-1")
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
    elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        yield from (text for each in node.elts for text in texts(each, known))
    elif isinstance(node, (ast.Name, ast.Attribute)):
        value = known.get(node.id if isinstance(node, ast.Name) else node.attr)
        if isinstance(value, (ast.Constant, ast.JoinedStr, ast.Tuple)):
            yield from texts(value, known)


def asked(node: ast.AST) -> Sequence[ast.expr]:
    """The expressions that a question is about: a method of texts with its arguments, or a comparison."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in QUESTIONS:
        return (node.func.value, *node.args)
    if isinstance(node, ast.Compare) and any(isinstance(op, (ast.In, ast.NotIn, ast.Eq, ast.NotEq)) for op in node.ops):
        return (node.left, *node.comparators)
    return ()


def is_spoken(node: ast.expr, raised: set[str]) -> bool:
    """Whether it is the text of an exception, or the notes of an artifact."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
        return isinstance(node.args[0], ast.Name) and node.args[0].id in raised
    return "notes" in (getattr(node, "attr", ""), getattr(node, "id", ""))


def decisions(tree: ast.Module) -> Iterator[str]:
    """Every question whose answer depends on a sentence."""
    known = {**PUBLIC, **constants(tree)}
    raised = {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}
    for node in ast.walk(tree):
        about = asked(node)
        sentences = (text for each in about for text in texts(each, known) if " " in text)
        if any(sentences) or any(is_spoken(each, raised) for each in about):
            yield f"{getattr(node, 'lineno', 0)}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_decision_is_made_on_a_sentence(path: Path) -> None:
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
def test_a_decision_on_a_sentence_is_noticed(line: str) -> None:
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
def test_other_questions_are_free(line: str) -> None:
    assert not list(decisions(ast.parse(line)))


def words(tree: ast.Module) -> Iterator[str]:
    """Every text of a module that is no docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_name_of_a_stage_stands_in_one_place(path: Path) -> None:
    if path == PACKAGE / "spec.py":
        return
    found = list(words(ast.parse(path.read_text(encoding="utf-8"))))
    assert not [word for word in found if NAMED.search(word)]
