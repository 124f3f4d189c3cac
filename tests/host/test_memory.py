from __future__ import annotations

import dataclasses
import gc
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping

import pytest

from deploytool.errors import ResourceExhausted
from deploytool.host import memory, memory_estimate
from deploytool.spec import BATCH, Job, Model, Options, Range, Tensor
from tests.conftest import ROOT, TINY

_WITHOUT_FAULTS, _WITH_FAULTS = Job(TINY, Options(faults=0)), Job(TINY, Options(faults=1))


def test_the_available_memory_is_measured() -> None:
    free = memory.available_bytes()
    assert free is None or free > 0
    assert memory.resident_bytes() > 1 << 20


def test_a_heap_is_looked_through_only_after_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    resident, collected = [700_000_000], []
    monkeypatch.setattr(memory, "resident_bytes", lambda: resident[0])
    monkeypatch.setattr(memory, "_kept", [0])
    monkeypatch.setattr(gc, "collect", lambda: collected.append(resident[0]))
    for resident[0] in (400_000_000, 700_000_000, 1_100_000_000, 1_200_000_000, 1_300_000_000):
        memory.release_unused()
    assert collected == [700_000_000, 1_200_000_000]


def test_a_limit_on_the_address_space_counts() -> None:
    program = "from deploytool.host import memory; print(memory.available_bytes())"
    limit = (1 << 30, 1 << 30)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0 < int(done.stdout) < 1 << 30


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_parent_group_counts_and_cached_pages_are_available(
    control_groups: Callable[[Mapping[str, str]], None], version: int
) -> None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    cached, top = ("inactive_file", "") if version == 2 else ("total_inactive_file", "memory/")
    files: dict[str, str] = {}
    for folder, most in (("above", "1000"), ("above/inner", "max")):
        values = {names[0]: most, names[1]: "700", "memory.stat": f"rss 5\n{cached} 100\n"}
        files |= {f"{top}{folder}/{name}": value for name, value in values.items()}
    control_groups(files)
    assert list(memory._control_groups()) == [400]


def test_a_model_that_needs_more_memory_than_available_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 2_000_000_000)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 400_000_000)
    memory_estimate.check(130e6, _WITHOUT_FAULTS)
    memory_estimate.check(80e6, _WITH_FAULTS)
    with pytest.raises(
        ResourceExhausted,
        match=r"tiny has 130 MB of weights, and its export needs .* GB of memory; 2.4 GB are available",
    ):
        memory_estimate.check(130e6, _WITH_FAULTS)
    with pytest.raises(ResourceExhausted) as raised:
        memory_estimate.check(130e6, _WITH_FAULTS)
    assert raised.value.remedy.startswith("--faults 0 needs 2.0 GB; or stop other programs")
    with pytest.raises(ResourceExhausted) as raised:
        memory_estimate.check(300e6, _WITH_FAULTS)
    assert raised.value.remedy.startswith("stop other programs")
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    memory_estimate.check(130e6, _WITH_FAULTS)


def test_more_weights_than_one_file_holds_need_less_memory_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 20_000_000_000)
    memory_estimate.check(2.6e9, _WITH_FAULTS)
    with pytest.raises(ResourceExhausted, match=r"has 1.8 GB of weights, and its export needs 40.9 GB of memory"):
        memory_estimate.check(1.8e9, _WITH_FAULTS)
    with pytest.raises(ResourceExhausted, match=r"has 8.0 GB of weights"):
        memory_estimate.check(8e9, _WITHOUT_FAULTS)


def test_outputs_that_need_more_memory_than_available_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 4_000_000_000)
    options = Options(images=8, sizes={"side": Range(100, 1000, 2000)})
    model = Model("map", "none", outputs=(Tensor("y", (BATCH, 4, "side", "side")),))
    memory_estimate.check_answers(model, options)
    with pytest.raises(
        ResourceExhausted, match=r"outputs of an image take 16\.0 MB, .* 64 images needs 21\.2 GB"
    ) as raised:
        memory_estimate.check_answers(model, dataclasses.replace(options, images=64))
    assert "--output" in raised.value.remedy
