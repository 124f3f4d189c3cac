"""Models are taken out of what encloses them; whatever they raise becomes one line that says where."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import deploytool
from deploytool import stages
from deploytool.backends import eager
from deploytool.errors import BadInput, DeployError, StageFailed, Unforeseen
from deploytool.loading.module import build
from deploytool.spec import Model, Option, Tensor
from tests.conftest import Command
from tests.user_model_export import OWN
from tests.user_models import enclosed

KINDS = (*enclosed.ERRORS, "recursion")


def model(function: str, **options: Option) -> Model:
    vector, logits = (Tensor("input", ("batch", 16)),), (Tensor("logits", ("batch", 4)),)
    return Model(function, f"{OWN / 'enclosed.py'}:{function}", options=options, inputs=vector, outputs=logits)


@pytest.mark.parametrize(
    ("function", "remark"),
    [
        ("compiled", "comes out of torch.compile: the module inside is taken"),
        ("compiled_in_place", "comes compiled: it is taken uncompiled"),
        ("compiled_part", "comes with part out of torch.compile: the module inside is taken"),
        ("compiled_in_a_list", "comes with 1.0 out of torch.compile: the module inside is taken"),
        ("compiled_forward", "comes with a compiled forward: it is taken uncompiled"),
        ("parallel", "comes in a DataParallel: the module inside is taken"),
        ("averaged", "comes in a AveragedModel: the module inside is taken"),
    ],
)
def test_what_encloses_a_model_is_taken_off(function: str, remark: str) -> None:
    built = build.build(model(function))
    assert built.remarks == (f"{function} {remark}",)
    assert not [name for name in built.module.state_dict() if "_orig_mod" in name or name.startswith("module.")]
    vector = np.ones((2, 16), np.float32)
    assert eager.make_session(built.module, model(function))(input=vector)["logits"].shape == (2, 4)
    assert not built.module.training


def test_one_enclosure_in_another_is_taken_off_too() -> None:
    built = build.build(model("parallel_and_compiled"))
    assert isinstance(built.module, torch.nn.Module)
    assert type(built.module).__name__ == "Net"
    assert len(built.remarks) == 2


def test_a_train_that_returns_nothing_is_no_reason_to_lose_the_model() -> None:
    assert not build.build(model("no_return")).module.training


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # its users still bring it
@pytest.mark.parametrize(("function", "name"), [("scripted_part", "part"), ("traced_deep_inside", r"part\.2")])
def test_a_scripted_part_is_refused_by_its_name(function: str, name: str) -> None:
    with pytest.raises(StageFailed, match=f"torch.onnx cannot export a model with a scripted part called {name}$"):
        build.build(model(function))


def test_what_is_drawn_is_always_alike_and_nobody_elses_numbers_change() -> None:
    import random

    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    with build.with_seed(1):
        first = drawn()
    after = drawn()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert drawn() == after
    with build.with_seed(1):
        assert drawn() == first


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", ["failing", "raising"])
def test_whatever_is_raised_is_one_line_with_its_place(function: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(StageFailed) as refusal:
        deploytool.export(
            f"{OWN / 'enclosed.py'}:{function}",
            inputs=[(16,)],
            arguments={"kind": kind},
            quick=True,
            out=tmp_path / "run",
        )
    said = f"{refusal.value}"
    assert said.isprintable()
    assert len(said) < 700
    assert refusal.value.__cause__ is not None or refusal.value.remedy
    assert re.search(r"\((tests/user_models/)?enclosed\.py:\d+\)", said)
    start = (
        "enclosed.py:failing raises " if function == "failing" else "enclosed_raising does not run on input (2, 16): "
    )
    assert start in said
    assert not (tmp_path / "run").exists()


def test_the_words_of_some_kinds() -> None:
    def said(kind: str) -> str:
        with pytest.raises(StageFailed) as refusal:
            build.build(model("failing", kind=kind))
        return str(refusal.value).partition(" raises ")[2].rpartition(" (")[0]

    assert said("key") == "KeyError: 'x'"
    assert said("empty") == "ValueError"
    assert said("lines") == "_Lines: first second third"
    assert said("unreadable") == "_Unreadable: its message cannot be read: ValueError"
    assert said("colours") == r"ValueError: red \x07bell \u202eturned\u2066 réseau 网络"
    assert said("exit") == "SystemExit: usage: net.py"
    assert said("group").endswith("ValueError: inner")


def test_an_interruption_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt):
        build.build(model("interrupted"))


@pytest.mark.parametrize(
    ("error", "kind", "line"),
    [
        (ZeroDivisionError("division by zero"), Unforeseen, r"ZeroDivisionError: division by zero \(.*test_building"),
        (PermissionError(13, "Permission denied", "x.onnx"), BadInput, "x.onnx: Permission denied"),
        (SystemExit(3), Unforeseen, "SystemExit: 3"),
        (KeyError("\x1b[31mx"), Unforeseen, "KeyError: "),
    ],
)
def test_what_a_library_raises_in_a_stage_is_a_failure_of_ours(
    error: BaseException, kind: type[DeployError], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def make(self, *_: object) -> None:
            raise error

    monkeypatch.setattr(stages, "import_stage", lambda verb: Broken())
    with pytest.raises(kind, match=line) as failure:
        deploytool.export(f"{OWN / 'enclosed.py'}:bare", inputs=[(16,)], quick=True, out=tmp_path / "run")
    assert failure.value.__cause__ is error
    assert str(failure.value).isprintable()


def test_the_trace_is_shown_where_one_asks_for_it(deploytool: Command) -> None:
    arguments = ("export", f"{OWN / 'enclosed.py'}:failing", "--input", "16", "--arg", "kind=colours")
    done = deploytool(*arguments, "--verbose")
    assert done.returncode == 7
    assert "Traceback" in done.stderr
    assert "raise ERRORS[kind]()" in done.stderr
    assert "\x1b" not in done.stderr
