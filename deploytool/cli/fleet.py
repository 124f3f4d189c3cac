"""`deploytool fleet`: deploys, verifies, builds and measures on many devices over SSH."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from deploytool.cli import config as cli_config
from deploytool.cli import console as cli_console
from deploytool.cli import device as device_options
from deploytool.cli.command import Outcome
from deploytool.device import arguments
from deploytool.device.arguments import MinimumBackend
from deploytool.errors import BadInput
from deploytool.fleet import devices as fleet_devices
from deploytool.fleet.actions import PROVING, Action
from deploytool.fleet.devices import FleetDevice

_DEVICES, _ROLLOUT, _PROOF = "Devices", "Rollout", "Proof"
_ACTIONS: Mapping[str, tuple[Action, ...]] = {  # of the options that not every action has
    "first": (Action.DEPLOY,),
    "build": (Action.DEPLOY, Action.VERIFY),
    "seconds": (Action.DEPLOY, Action.BENCH),
    "max_latency": (Action.DEPLOY, Action.BENCH),
    "require": PROVING,
    "run": PROVING,
    "key": (*PROVING, Action.BUILD, Action.ROLLBACK),
}
_FLAGS = {"key": arguments.KEY.flag}  # of the options whose name is another


@dataclass(frozen=True)
class _Configured:
    """The devices of the configuration file, and the options that are on the command line and not in the file."""

    devices: tuple[FleetDevice, ...] = ()
    given: tuple[str, ...] = ()


def _configured(context: typer.Context, value: Any) -> Any:
    """Reads the tables [devices.NAME] of the configuration file; all other options are parsed before."""
    if context.resilient_parsing or context.parent is None:
        return _Configured()
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = tuple(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")
    named = context.params.get("config") if "config" in given else context.parent.params.get("config")
    settings = cli_config.find(named)
    if settings is None:
        return _Configured((), given)
    tables = settings.tables.get(cli_config.DEVICES, {})
    return _Configured(fleet_devices.parse(tables, settings.file, named=settings.named), given)


def fleet(
    action: Annotated[Action, typer.Argument(help="What to do on every device.")],
    bundle: Annotated[Path | None, typer.Argument(metavar="BUNDLE", help="For deploy: a bundle's folder.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this device.", rich_help_panel=_DEVICES)
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="Only devices with this label.", rich_help_panel=_DEVICES)
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(min=1, help="Devices to work on at a time.", show_default="all", rich_help_panel=_DEVICES),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(min=1, metavar="SECONDS", help="Give up a silent device after this.", rich_help_panel=_DEVICES),
    ] = 600.0,
    first: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="For deploy: canaries, which must prove the bundle before the others get it.",
            show_default="none",
            rich_help_panel=_ROLLOUT,
        ),
    ] = None,
    build: Annotated[
        bool, typer.Option("--build", help="Build an engine on each device first.", rich_help_panel=_PROOF)
    ] = False,
    require: Annotated[
        MinimumBackend | None,
        typer.Option(
            help=arguments.REQUIRE.help, show_default="deploy: trt on devices with a target", rich_help_panel=_PROOF
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=arguments.SECONDS.minimum,
            max=arguments.SECONDS.maximum,
            help=arguments.SECONDS.help,
            show_default=f"{arguments.SECONDS.default:g}",
            rich_help_panel=_PROOF,
        ),
    ] = None,
    max_latency: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="MS", help=arguments.MAX_LATENCY.help, rich_help_panel=_PROOF),
    ] = None,
    key: device_options.Key = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder for results.")] = Path("artifacts", "fleet"),
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Add the measurements to the page of the bundle's run.")
    ] = None,
    configured: Annotated[
        Any,
        typer.Option(help="The tables [devices.NAME] of the file.", hidden=True, callback=_configured, parser=str),
    ] = None,
) -> Outcome:
    """Does one thing on every device of [devices.NAME] in deploytool.toml, many at a time.

    A job goes on there if the connection is interrupted, and the same command finds it again.
    Examples: deploytool fleet status · deploytool fleet deploy artifacts/shufflenet_g3/pack/bundle --first 1
    """
    if (bundle is None) is (action is Action.DEPLOY):
        remedy = "give its folder: deploytool fleet deploy BUNDLE" if bundle is None else "leave it out"
        raise BadInput(f"fleet {action} takes {'a' if bundle is None else 'no'} bundle", remedy)
    for name in configured.given:
        if action not in (actions := _ACTIONS.get(name, (action,))):
            flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
            raise BadInput(f"{flag} applies to fleet {' and '.join(actions)}, not to {action}", "leave it out")
    chosen = fleet_devices.select(configured.devices, device or (), label or ())

    from deploytool.cli import fleet_results  # imports numpy and Pillow
    from deploytool.fleet import run as fleet_run
    from deploytool.fleet.work import Proof

    proof = Proof(require, build, seconds or arguments.SECONDS.default, max_latency, key)
    request = fleet_run.Request(devices=chosen, proof=proof, at_once=at_once, first=first or 0, patience_s=patience)
    tell, keep = _teller(chosen), fleet_results.keeper(out)
    if bundle is not None:
        made = fleet_run.deploy(bundle, request, tell, keep)
    elif action in (Action.STATUS, Action.DOCTOR):
        made = fleet_run.ask(action, request, tell)
    else:
        made = fleet_run.act(action, request, tell, keep)
    return fleet_results.outcome(made, out, run)


def _teller(chosen: tuple[FleetDevice, ...]) -> Callable[[str, str], None]:
    """A function that prints a line of a device after its name; it may be called from several threads."""
    width, lock = max(len(device.name) for device in chosen), threading.Lock()

    def tell(name: str, line: str) -> None:
        with lock:
            cli_console.note(f"  {name:<{width}}  {line}")

    return tell
