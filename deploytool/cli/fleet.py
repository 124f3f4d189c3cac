"""`deploytool fleet`: deploys, verifies, builds and measures on many devices over SSH."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from deploytool.cli import config as cli_config
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
    "canary": (Action.DEPLOY,),
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


_Action = Annotated[Action, typer.Argument(help="What to do on every device.")]
_Bundle = Annotated[Path | None, typer.Argument(metavar="BUNDLE", help="For deploy: a bundle's folder.")]
_Devices = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this device.", rich_help_panel=_DEVICES)]
_Labels = Annotated[
    list[str] | None, typer.Option(metavar="LABEL", help="Only devices with this label.", rich_help_panel=_DEVICES)
]
_AtOnce = Annotated[
    int | None,
    typer.Option(min=1, help="Devices to work on at a time.", show_default="all", rich_help_panel=_DEVICES),
]
_Patience = Annotated[
    float,
    typer.Option(min=1, metavar="SECONDS", help="Give up a silent device after this.", rich_help_panel=_DEVICES),
]
_First = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="For deploy: canaries, which must prove the bundle before the others get it.",
        show_default="none",
        rich_help_panel=_ROLLOUT,
    ),
]
_Canaries = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="For deploy: this device is a canary.", rich_help_panel=_ROLLOUT),
]
_Build = Annotated[bool, typer.Option("--build", help="Build an engine on each device first.", rich_help_panel=_PROOF)]
_Require = Annotated[
    MinimumBackend | None,
    typer.Option(
        help=arguments.REQUIRE.help, show_default="deploy: trt on devices with a target", rich_help_panel=_PROOF
    ),
]
_Seconds = Annotated[
    float | None,
    typer.Option(
        min=arguments.SECONDS.minimum,
        max=arguments.SECONDS.maximum,
        help=arguments.SECONDS.help,
        show_default=f"{arguments.SECONDS.default:g}",
        rich_help_panel=_PROOF,
    ),
]
_MaxLatency = Annotated[
    float | None, typer.Option(min=0.001, metavar="MS", help=arguments.MAX_LATENCY.help, rich_help_panel=_PROOF)
]
_Out = Annotated[Path, typer.Option(metavar="DIR", help="The folder for results.")]
_Run = Annotated[Path | None, typer.Option(metavar="RUN", help="Add the measurements to the page of the bundle's run.")]
_Tables = Annotated[
    Any,
    typer.Option(help="The tables [devices.NAME] of the file.", hidden=True, callback=_configured, parser=str),
]


def fleet(
    action: _Action,
    bundle: _Bundle = None,
    device: _Devices = None,
    label: _Labels = None,
    at_once: _AtOnce = None,
    patience: _Patience = 600.0,
    first: _First = None,
    canary: _Canaries = None,
    build: _Build = False,
    require: _Require = None,
    seconds: _Seconds = None,
    max_latency: _MaxLatency = None,
    key: device_options.Key = None,
    out: _Out = Path("artifacts", "fleet"),
    run: _Run = None,
    configured: _Tables = None,
) -> Outcome:
    """Does one thing on every device of [devices.NAME] in deploytool.toml, many at a time.

    A job goes on there if the connection is interrupted, and the same command finds it again.
    Examples: deploytool fleet status · deploytool fleet deploy artifacts/shufflenet_g3/pack/bundle --first 1
    """
    _check_use(action, bundle, configured.given)
    chosen = fleet_devices.select(configured.devices, device or (), label or ())
    first, named = _canaries(first, canary or [], configured.given)
    canaries = fleet_devices.canaries(chosen, named)

    from deploytool.cli import fleet_progress, fleet_results  # import numpy and Pillow
    from deploytool.fleet import run as fleet_run
    from deploytool.fleet.work import Proof

    request = fleet_run.Request(
        devices=chosen,
        proof=Proof(require, build, seconds or arguments.SECONDS.default, max_latency, key),
        at_once=at_once,
        first=first or 0,
        canaries=canaries,
        patience_s=patience,
    )
    asks = action in (Action.STATUS, Action.DOCTOR)
    keep = None if asks else fleet_results.keeper(out)
    with fleet_progress.follow([each.name for each in chosen], keep) as observer:
        if bundle is not None:
            made = fleet_run.deploy(bundle, request, observer)
        elif asks:
            made = fleet_run.ask(action, request, observer)
        else:
            made = fleet_run.act(action, request, observer)
    return fleet_results.outcome(made, out, run)


def _check_use(action: Action, bundle: Path | None, given: tuple[str, ...]) -> None:
    """Raises BadInput for a bundle or an option that the action does not have, and for a bundle that is missing."""
    if (bundle is None) is (action is Action.DEPLOY):
        remedy = "give its folder: deploytool fleet deploy BUNDLE" if bundle is None else "leave it out"
        raise BadInput(f"fleet {action} takes {'a' if bundle is None else 'no'} bundle", remedy)
    for name in given:
        if action not in (actions := _ACTIONS.get(name, (action,))):
            flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
            raise BadInput(f"{flag} applies to fleet {' and '.join(actions)}, not to {action}", "leave it out")


def _canaries(first: int | None, named: list[str], given: tuple[str, ...]) -> tuple[int | None, list[str]]:
    """The number of canaries or their names: of both, what the command line has; raises BadInput if it has both."""
    if first is None or not named:
        return first, named
    if ("first" in given) is ("canary" in given):
        raise BadInput("--first and --canary are mutually exclusive", "leave one of them out")
    return (first, []) if "first" in given else (None, named)
