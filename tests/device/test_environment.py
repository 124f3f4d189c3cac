"""Which engine can run on which machine, compared with an independent table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from deploytool.bundle.manifest import Engine, File, Role
from deploytool.device.environment import Environment, detect, mismatch
from deploytool.spec import Precision

SYSTEMS, PROCESSORS = ("linux", "windows"), ("x86_64", "aarch64")
CAPABILITIES = ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "11.0", "12.0", "12.1")
DRIVERS = ("", "11.8", "12.0", "12.9", "13.0", "13.2", "13.10", "odd")  # oldest first, but for the ends
RELEASES = ("10.3.0", "10.16.1.11", "11.4.0.106", "1.7.1.116")
FLAVOURS = ("tensorrt", "tensorrt_rtx")
ACCEPTED_DRIVERS = {  # by the lowest driver required
    "": set(DRIVERS),
    "12.0": {"12.0", "12.9", "13.0", "13.2", "13.10"},
    "13.0": {"13.0", "13.2", "13.10"},
    "13.2": {"13.2", "13.10"},
    "odd": set(),
}


def some(values: tuple[str, ...]) -> draw.SearchStrategy[tuple[str, ...]]:
    return draw.lists(draw.sampled_from(values), min_size=1, max_size=5, unique=True).map(tuple)


ENGINES = draw.builds(
    Engine,
    file=draw.just(File("engines/a.plan", 1, "0" * 64, Role.ENGINE)),
    flavour=draw.sampled_from(FLAVOURS),
    version=draw.sampled_from(RELEASES),
    capabilities=some(CAPABILITIES),
    systems=some(SYSTEMS),
    processors=some(PROCESSORS),
    cuda=draw.sampled_from(sorted(ACCEPTED_DRIVERS)),
    precision=draw.just(Precision.FP16),
    io=draw.just(Precision.FP32),
)


@draw.composite
def pairs(any_: draw.DrawFn) -> tuple[Engine, Environment]:
    """An engine, and a machine that often has what the engine needs."""
    engine = any_(ENGINES)

    def choice(values: tuple[str, ...], wanted: tuple[str, ...]) -> str:
        return any_(draw.sampled_from((*values, *wanted * (4 * len(values) // len(wanted)))))

    flavours = {choice(FLAVOURS, (engine.flavour,)): choice(RELEASES, (engine.version,)) for _ in range(2)}
    machine = Environment(
        system=choice(SYSTEMS, engine.systems),
        processor=choice(PROCESSORS, engine.processors),
        gpu="a GPU",
        capability=choice(("", *CAPABILITIES), engine.capabilities),
        cuda=any_(draw.sampled_from(DRIVERS)),
        tensorrt=flavours if any_(draw.integers(0, 9)) else None,
    )
    return engine, machine


SEEN = {"accepted": 0, "refused": 0}


def table(engine: Engine) -> Iterator[tuple[str, ...]]:
    """One row for each machine that can run an engine."""
    drivers = sorted(ACCEPTED_DRIVERS[engine.cuda])
    yield from itertools.product(
        engine.systems, engine.processors, engine.capabilities, drivers, [engine.flavour], [engine.version]
    )


def rows(machine: Environment) -> set[tuple[str, ...]]:
    """One row for each TensorRT of a machine."""
    base = (machine.system, machine.processor, machine.capability, machine.cuda)
    return {(*base, flavour, version) for flavour, version in (machine.tensorrt or {}).items()}


@settings(max_examples=5000, deadline=None, derandomize=True)
@given(pair=pairs())
def decides_as_the_table(pair: tuple[Engine, Environment]) -> None:
    engine, machine = pair
    accepted = mismatch(engine, machine) is None
    assert accepted == bool(rows(machine) & set(table(engine)))
    SEEN["accepted" if accepted else "refused"] += 1


@pytest.mark.integration
def test_five_thousand_random_pairs_match_the_table() -> None:
    SEEN.update(accepted=0, refused=0)
    decides_as_the_table()
    assert sum(SEEN.values()) >= 5000
    assert min(SEEN.values()) >= 500  # else one of the outcomes was hardly tested


ENGINE = Engine(
    *(File("engines/a.plan", 1, "0" * 64, Role.ENGINE), "tensorrt", "10.16.1.11", ("8.9",), ("linux",), ("x86_64",)),
    *("13.0", Precision.FP16, Precision.FP32),
)
HOST = {"system": "linux", "processor": "x86_64", "gpu": "L4", "capability": "8.9", "cuda": "13.0"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"processor": "aarch64"}, "it is not for linux on aarch64"),
        ({"gpu": "", "capability": ""}, "no CUDA GPU answers here"),
        ({"capability": "9.0"}, "it is for compute capability 8.9, and L4 has 9.0"),
        ({"cuda": "12.8"}, "it needs a driver for CUDA 13.0, and this one supports 12.8"),
        ({"tensorrt": {}}, "tensorrt is not installed"),
        (
            {"tensorrt": {"tensorrt": "10.3.0"}},
            "it was built by tensorrt 10.16.1.11, and 10.3.0 is installed",
        ),
    ],
)
def test_a_mismatch_has_a_reason(change: dict[str, object], reason: str | None) -> None:
    machine = Environment(**{**HOST, "tensorrt": {"tensorrt": "10.16.1.11"}, **change})  # type: ignore[arg-type]  # by name
    assert mismatch(ENGINE, machine) == reason


def test_this_machine_is_detected() -> None:
    environment = detect()
    assert environment.system
    assert environment.processor in ("x86_64", "aarch64")
    assert bool(environment.gpu) == bool(environment.capability)
    assert "tensorrt_rtx" in (environment.tensorrt or {})
