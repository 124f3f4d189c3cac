"""Two sweeps compared: cells are matched by name, budgets hold for each cell, and lost cells are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deploytool.diff import budgets, sides, sweep_side
from deploytool.diff.budgets import Outcome
from deploytool.diff.compare import FactChange, Side, compare
from deploytool.errors import BadInput
from deploytool.results.sweep import CellResult, CellState, Sweep
from tests.report import sweeps

SLOW = "shufflenet_g3-fp16-auto-a100"


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    return sweeps.sweep(sweeps.cells(3, ("auto",)))


def changed(sweep: Sweep, **changes: CellResult | None) -> Sweep:
    """The sweep with other results by the names of cells, without those that are None."""
    cells = [changes.get(result.cell.name.replace("-", "_"), result) for result in sweep.cells]
    return replace(sweep, cells=tuple(result for result in cells if result))


def read(sweep: Sweep, folder: Path) -> Side:
    return sides.read(sweeps.store(folder, sweep))


def named(sweep: Sweep, name: str) -> CellResult:
    return next(result for result in sweep.cells if result.cell.name == name)


def judged(text: str, a: Side, b: Side) -> budgets.BudgetResult:
    return budgets.judge(budgets.parse(text), a, b)


def test_a_sweep_has_the_figures_of_its_cells(sweep: Sweep, tmp_path: Path) -> None:
    side = read(sweep, tmp_path)
    assert (side.kind, side.model) == (sweep_side.SWEEP, "15 cells")
    result = named(sweep, SLOW)
    (speed,), (close,) = result.speeds, result.closeness
    assert (side.figures["speedup"][SLOW].value, side.figures["speedup"][SLOW].low) == (speed.ratio, speed.low)
    assert side.figures["p50"][SLOW].value == speed.latency_ms
    assert side.figures["size"][SLOW].value == result.sizes["fp16/model.onnx"]
    assert (side.figures["parity"][SLOW].value, side.figures["tolerances"][SLOW].value) == (
        close.error,
        close.tolerances,
    )
    assert set(side.figures["passed"]) == {each.cell.name for each in sweep.cells}
    assert side.states[SLOW] == "passed"


def test_the_drop_of_a_cell_has_a_budget(sweep: Sweep, tmp_path: Path) -> None:
    name = sweep.cells[0].cell.name
    worse = replace(sweep, cells=(replace(sweep.cells[0], drops=sweeps.DROPS), *sweep.cells[1:]))
    side = read(worse, tmp_path)
    assert {cell: value.value for cell, value in side.figures["drop"].items()} == {name: 0.02}
    assert judged("drop>1.5pt", side, side).outcome is Outcome.OVER


def test_equal_sweeps_do_not_differ(sweep: Sweep, tmp_path: Path) -> None:
    a, b = read(sweep, tmp_path / "a"), read(sweep, tmp_path / "b")
    assert compare(a, b).empty
    for text in ("passed<1", "size>+1%", "speedup<0.9x", "tolerances>1", "p50>+5%"):
        assert judged(text, a, b).outcome is Outcome.WITHIN


def test_cells_that_are_new_lost_or_in_another_state_are_listed(sweep: Sweep, tmp_path: Path) -> None:
    broken = sweeps.ended(named(sweep, SLOW).cell, CellState.FAILED, "wrong", "", 3)
    a = read(changed(sweep, mixnet_s_fp16_auto_orin=None), tmp_path / "a")
    b = read(changed(sweep, shufflenet_g3_fp16_auto_a100=broken, mixnet_s_fp16_auto_gb10=None), tmp_path / "b")
    assert set(compare(a, b).states) == {
        FactChange(SLOW, "passed", "failed (FAIL)"),
        FactChange("mixnet_s-fp16-auto-orin", None, "passed"),
        FactChange("mixnet_s-fp16-auto-gb10", "passed", None),
    }


def test_a_budget_holds_for_each_cell_and_names_it(sweep: Sweep, tmp_path: Path) -> None:
    result = named(sweep, SLOW)
    larger = replace(result, sizes={name: 2 * size for name, size in result.sizes.items()})
    a, b = read(sweep, tmp_path / "a"), read(changed(sweep, shufflenet_g3_fp16_auto_a100=larger), tmp_path / "b")
    over = judged("size>+10%", a, b)
    assert over.outcome is Outcome.OVER
    assert [reason.partition(":")[0] for reason in over.reasons] == [SLOW]
    assert judged(f"size@{SLOW}>+10%", a, b).outcome is Outcome.OVER
    assert judged("size@mobilenet_v1-fp16-auto-orin>+10%", a, b).outcome is Outcome.WITHIN
    with pytest.raises(BadInput, match="unknown subject 'nothing'"):
        judged("size@nothing>1MB", a, b)


def test_a_cell_that_no_longer_passes_is_over_a_budget(sweep: Sweep, tmp_path: Path) -> None:
    broken = sweeps.ended(named(sweep, SLOW).cell, CellState.REFUSED, "no", "")
    a, b = read(sweep, tmp_path / "a"), read(changed(sweep, shufflenet_g3_fp16_auto_a100=broken), tmp_path / "b")
    for text in ("passed<1", "passed<-0%", "passed<100%"):
        assert judged(text, a, b).outcome is Outcome.OVER, text
    assert judged("passed<-0%", b, a).outcome is Outcome.WITHIN
    assert judged("passed<-0%", b, b).outcome is Outcome.WITHIN
    assert judged("size>+1%", a, b).outcome is Outcome.UNDECIDED, "what was not measured has not passed"


@pytest.mark.parametrize("state", [None, CellState.PENDING])
def test_a_cell_that_is_missing_leaves_budgets_undecided(sweep: Sweep, tmp_path: Path, state: CellState | None) -> None:
    unmade = CellResult(named(sweep, SLOW).cell, state, "x") if state else None
    a, b = read(sweep, tmp_path / "a"), read(changed(sweep, shufflenet_g3_fp16_auto_a100=unmade), tmp_path / "b")
    for text in ("passed<-0%", "size>+1%"):
        result = judged(text, a, b)
        assert result.outcome is Outcome.UNDECIDED
        assert SLOW in result.reasons[0]
        assert judged(text, b, a).outcome is Outcome.WITHIN


def test_speeds_are_compared_on_equal_machines_cell_by_cell(sweep: Sweep, tmp_path: Path) -> None:
    alpha, beta = sweeps.MACHINES
    here = [replace(result, machine=alpha) for result in sweep.cells]
    there = [replace(result, machine=replace(alpha, name="gamma")) for result in sweep.cells[:-1]]
    a = read(sweeps.of(here), tmp_path / "a")
    b = read(sweeps.of([*there, replace(sweep.cells[-1], machine=beta)]), tmp_path / "b")
    last = sweep.cells[-1].cell.name
    assert judged(f"p50@{last}>+5%", a, b).outcome is Outcome.UNDECIDED
    assert judged(f"p50@{SLOW}>+5%", a, b).outcome is Outcome.WITHIN, "another name, the same processor"
    assert judged(f"size@{last}>+5%", a, b).outcome is Outcome.WITHIN


def test_a_sweep_and_a_run_are_not_compared(sweep: Sweep, tmp_path: Path, finished: Path) -> None:
    home = sweeps.store(tmp_path, sweep)
    for pair in ((home, finished), (finished, home)):
        with pytest.raises(BadInput, match="is a sweep, and the other side is a run"):
            sides.read_both(*pair)


def test_a_sweep_of_another_version_is_refused(sweep: Sweep, tmp_path: Path) -> None:
    sweeps.store(tmp_path, replace(sweep, schema="deploytool.sweep/99"))
    with pytest.raises(BadInput, match="not a sweep of this schema version"):
        sides.read(tmp_path)
