"""Tests of building a module: wrappers are removed, and errors of the user's code become one line with a location."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import deploytool
from deploytool.backends import eager
from deploytool.errors import BadInput, DeployError, StageFailed, UnexpectedError
from deploytool.loading.module import build
from deploytool.spec import Model, Option, Tensor
from deploytool.stages import registry
from tests.conftest import Command
from tests.user_model_export import OWN
from tests.user_models import wrapped

KINDS = (*wrapped.ERRORS, "recursion")


def model(function: str, **options: Option) -> Model:
    vector, logits = (Tensor("input", ("batch", 16)),), (Tensor("logits", ("batch", 4)),)
    return Model(function, f"{OWN / 'wrapped.py'}:{function}", options=options, inputs=vector, outputs=logits)


@pytest.mark.parametrize(
    ("function", "remark"),
    [
        ("compiled", "torch.compile wrapper removed"),
        ("compiled_in_place", "Module.compile() undone"),
        ("compiled_part", "submodule part: torch.compile wrapper removed"),
        ("compiled_in_a_list", "submodule 1.0: torch.compile wrapper removed"),
        ("compiled_forward", "torch.compile removed from a forward method"),
        ("parallel", "DataParallel wrapper removed"),
        ("averaged", "AveragedModel wrapper removed"),
    ],
)
def test_wrappers_of_a_model_are_removed(function: str, remark: str) -> None:
    built = build.build(model(function))
    assert built.remarks == (f"{function}: {remark}",)
    assert not [name for name in built.module.state_dict() if "_orig_mod" in name or name.startswith("module.")]
    vector = np.ones((2, 16), np.float32)
    assert eager.make_session(built.module, model(function))(input=vector)["logits"].shape == (2, 4)
    assert not built.module.training


def test_nested_wrappers_are_removed() -> None:
    built = build.build(model("parallel_and_compiled"))
    assert isinstance(built.module, torch.nn.Module)
    assert type(built.module).__name__ == "Net"
    assert len(built.remarks) == 2


def test_a_train_method_that_returns_nothing_is_supported() -> None:
    assert not build.build(model("no_return")).module.training


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # users still pass such modules
@pytest.mark.parametrize(("function", "name"), [("scripted_part", "part"), ("traced_deep_inside", r"part\.2")])
def test_the_error_for_a_scripted_submodule_contains_its_name(function: str, name: str) -> None:
    with pytest.raises(StageFailed, match=f"scripted submodule {name}$"):
        build.build(model(function))


def test_with_seed_is_reproducible_and_restores_the_random_generators() -> None:
    import random

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    with build.with_seed(1):
        first = draw()
    after = draw()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert draw() == after
    with build.with_seed(1):
        assert draw() == first


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", ["failing", "raising"])
def test_an_error_of_user_code_is_one_line_with_its_location(function: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(StageFailed) as caught:
        deploytool.export(
            f"{OWN / 'wrapped.py'}:{function}",
            inputs=[(16,)],
            arguments={"kind": kind},
            quick=True,
            out=tmp_path / "run",
        )
    problem = f"{caught.value}"
    assert problem.isprintable()
    assert len(problem) < 700
    assert caught.value.__cause__ is not None or caught.value.remedy
    assert re.search(r"\((tests/user_models/)?wrapped\.py:\d+\)", problem)
    start = "wrapped.py:failing raises " if function == "failing" else "wrapped_raising does not run on input (2, 16): "
    assert start in problem
    assert not (tmp_path / "run").exists()


def test_messages_of_exceptions_are_cleaned() -> None:
    def description(kind: str) -> str:
        with pytest.raises(StageFailed) as caught:
            build.build(model("failing", kind=kind))
        return str(caught.value).partition(" raises ")[2].rpartition(" (")[0]

    assert description("key") == "KeyError: 'x'"
    assert description("empty") == "ValueError"
    assert description("lines") == "_Lines: first second third"
    assert description("unreadable").startswith("_Unreadable: ")
    assert description("unreadable").endswith(": ValueError")
    assert description("colours") == r"ValueError: red \x07bell \u202eturned\u2066 réseau 网络"
    assert description("exit") == "SystemExit: usage: net.py"
    assert description("group").endswith("ValueError: inner")


def test_keyboard_interrupt_propagates() -> None:
    with pytest.raises(KeyboardInterrupt):
        build.build(model("interrupted"))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (ZeroDivisionError("division by zero"), UnexpectedError, r"ZeroDivisionError: division by zero \(.*test_build"),
        (PermissionError(13, "Permission denied", "x.onnx"), BadInput, "x.onnx: Permission denied"),
        (SystemExit(3), UnexpectedError, "SystemExit: 3"),
        (KeyError("\x1b[31mx"), UnexpectedError, "KeyError: "),
    ],
)
def test_an_exception_of_a_library_in_a_stage_is_a_deploy_error(
    error: BaseException, kind: type[DeployError], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def make(self, *_: object) -> None:
            raise error

    monkeypatch.setattr(registry, "import_stage", lambda verb: Broken())
    with pytest.raises(kind, match=line) as caught:
        deploytool.export(f"{OWN / 'wrapped.py'}:bare", inputs=[(16,)], quick=True, out=tmp_path / "run")
    assert caught.value.__cause__ is error
    assert str(caught.value).isprintable()


def test_verbose_shows_the_traceback(deploytool: Command) -> None:
    arguments = ("export", f"{OWN / 'wrapped.py'}:failing", "--input", "16", "--arg", "kind=colours")
    done = deploytool(*arguments, "--verbose")
    assert done.returncode == 7
    assert "Traceback" in done.stderr
    assert "raise ERRORS[kind]()" in done.stderr
    assert "\x1b" not in done.stderr
