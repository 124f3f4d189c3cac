"""The declared arguments are those of the commands, and both command lines accept them."""

from __future__ import annotations

import inspect
import shlex
from argparse import Namespace
from typing import Any

import pytest
import typer

from deploytool.cli.app import app
from deploytool.device import __main__ as front_end
from deploytool.device import commands
from deploytool.device.arguments import COMMANDS, Argument, MinimumBackend
from deploytool.device.candidates import ACCEPTED_TIERS
from deploytool.device.output import CommandOutput
from tests.conftest import Command

GROUP: Any = typer.main.get_command(app)
FORWARDED = [name for name in COMMANDS if name not in ("bench", "clean", "doctor")]  # the host's own do more


def parsed(name: str, *words: str) -> Namespace:
    return front_end._parser().parse_args([name, *words])


def described(argument: Argument) -> tuple[str, str, bool]:
    """The option, if it is one, its help, and whether it must be given."""
    return argument.flag, argument.help, argument.required or not argument.flag


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_a_parameter_of_its_command(name: str) -> None:
    names = [argument.name for argument in COMMANDS[name].arguments]
    parameters = set(inspect.signature(getattr(commands, name)).parameters) - {"say", "logins"}
    assert sorted(argument if argument != "bundle" else "folder" for argument in names) == sorted(parameters)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_receives_the_value_of_every_argument(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    received: dict[str, object] = {}
    signature = inspect.signature(getattr(commands, name))

    def record(*values: object, **named: object) -> CommandOutput:
        received.update(signature.bind(*values, **named).arguments)
        return CommandOutput(("done",), None)

    monkeypatch.setattr(commands, name, record)
    values = {argument.name: f"value of {argument.name}" for argument in COMMANDS[name].arguments}
    front_end.call(name, Namespace(**values), print)
    assert {received[name if name != "bundle" else "folder"] for name in values} == set(values.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_can_be_parsed(name: str) -> None:
    values = vars(parsed(name, *shlex.split(COMMANDS[name].example)))
    assert {argument.name for argument in COMMANDS[name].arguments} <= set(values)


@pytest.mark.parametrize("name", FORWARDED)
def test_the_host_declares_the_same_arguments(name: str) -> None:
    own = {argument.name for argument in COMMANDS[name].arguments}
    params = [param for param in GROUP.get_command(None, name).params if param.name in own]
    host = [
        (param.opts[0] if param.param_type_name == "option" else "", param.help, param.required) for param in params
    ]
    assert host == [described(argument) for argument in COMMANDS[name].arguments]


@pytest.mark.parametrize(
    "words",
    [
        ("run", "bundle", "image.png", "--top", "0"),
        ("run", "bundle", "image.png", "--top", "100000000000000000000"),
        ("run", "bundle", "image.png", "--top", "many"),
        ("bench", "bundle", "--seconds", "0"),
        ("bench", "bundle", "--seconds", "3601"),
        ("pull", "address", "--timeout", "0"),
        ("verify", "bundle", "--require", "npu"),
    ],
)
def test_a_value_out_of_range_is_a_wrong_use(
    words: tuple[str, ...], deploytool: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_request:
        parsed(*words)
    assert exit_request.value.code == 2
    assert words[-2] in capsys.readouterr().err
    assert deploytool(*words).returncode == 2


def test_a_repeated_option_collects_its_values() -> None:
    values = parsed("pull", "address", "--reuse-from", "one", "--reuse-from", "two")
    assert [path.name for path in values.reuse_from] == ["one", "two"]


def test_every_minimum_backend_accepts_some_tiers() -> None:
    assert list(ACCEPTED_TIERS) == list(MinimumBackend)
