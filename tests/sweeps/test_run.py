from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploytool import serde
from deploytool.errors import BadInput, Unreachable
from deploytool.pipeline.export_options import ExportOptions
from deploytool.results import sweep as results
from deploytool.results.sweep import CellState
from deploytool.results.sweep_events import CellEnded, CellStarted, Event, SharedEnded, SharedStarted, SweepStarted
from deploytool.sweeps import exclusive, keys, store, worker
from deploytool.sweeps.cluster_options import ClusterOptions
from deploytool.sweeps.job import ChildTask, Job
from deploytool.sweeps.run import run
from tests.conftest import ROOT
from tests.sweeps import fake_child
from tests.sweeps.conftest import FakeSweep, wait_for

TWO_WORKERS = ClusterOptions(workers=2)


def test_every_cell_is_made_once_and_a_second_sweep_makes_none(fake: FakeSweep) -> None:
    seen: list[Event] = []
    first = fake.run(targets=("orin", "rtx40"), cluster=TWO_WORKERS, follow=seen.append)
    assert first.count(CellState.PASSED) == len(first.cells) == 6
    assert sorted(fake.cells_made()) == sorted(cell.cell.name for cell in first.cells)
    assert len(fake.log()) == 6 + 3  # and the shared stages of each model
    assert results.read(fake.out) == first
    kinds = [type(event) for event in seen]
    assert isinstance(seen[0], SweepStarted)
    assert (len(seen[0].cells), seen[0].finished, seen[0].workers) == (6, 0, 2)
    assert [kinds.count(kind) for kind in (CellStarted, CellEnded, SharedStarted, SharedEnded)] == [6, 6, 3, 3]
    second = fake.run(targets=("orin", "rtx40"), cluster=TWO_WORKERS)
    assert len(fake.log()) == 9
    assert (second.reused, [cell.digests for cell in second.cells]) == (6, [cell.digests for cell in first.cells])


def test_the_page_never_shows_an_earlier_sweep_as_the_present_one(fake: FakeSweep) -> None:
    page = fake.out / results.PAGE
    fake.run(models=("mixnet_s",))
    assert "The cell passed" in page.read_text()
    assert "a command was making the cells" not in page.read_text()
    seen = []

    def look(event: Event) -> None:
        if isinstance(event, SweepStarted):
            seen.append((page.read_text(), results.read(fake.out)))

    fake.run(models=("mixnet_s", "shufflenet_g3"), follow=look)
    ((during, sweep),) = seen
    assert "1 of 2 cells are finished" in during
    assert "Not the end: a command was making the cells" in during
    assert not sweep.ended
    assert "All 2 cells passed" in page.read_text()
    assert results.read(fake.out).ended


def test_a_sweep_whose_scheduler_is_gone_says_so_on_its_page(fake: FakeSweep) -> None:
    with pytest.raises(Unreachable):
        fake.run(cluster=ClusterOptions(scheduler="tcp://127.0.0.1:9"))
    assert "0 of 3 cells are finished" in (fake.out / results.PAGE).read_text()
    assert results.read(fake.out).ended


@pytest.mark.parametrize("precision", ["int8", "fp16,fp8"])
def test_precisions_that_need_calibration_are_refused_before_any_work(fake: FakeSweep, precision: str) -> None:
    request = replace(fake.request(), options=ExportOptions(precision=precision))
    with pytest.raises(BadInput, match=f"precision {precision[-4:].strip(',')} needs inputs") as caught:
        run(request)
    assert "calibration =" in caught.value.remedy
    assert not fake.out.exists()
    run(replace(fake.request(precisions=("fp32",)), options=ExportOptions(precision=precision)))


def test_the_cells_that_take_longest_come_first(fake: FakeSweep) -> None:
    models = ("shufflenet_g1_x0_25", "squeezenet1_0", "shufflenet_g1_x2_0", "mobilenet_v1_cifar")
    fake.run(models=models, cluster=ClusterOptions(workers=1))
    made = [name.partition("-")[0] for name in fake.cells_made()]
    assert made == ["squeezenet1_0", "shufflenet_g1_x2_0", "mobilenet_v1_cifar", "shufflenet_g1_x0_25"]


def test_a_second_sweep_starts_no_cluster(fake: FakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.run()
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "deploytool.sweeps.cluster")
    assert fake.run().reused == 3


def test_nothing_listens_beyond_this_machine(fake: FakeSweep) -> None:
    own = psutil.Process()
    found: set[str] = set()

    def look(event: Event) -> None:
        connections = own.net_connections(kind="inet")
        found.update(each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN)

    fake.run(models=("mixnet_s",), follow=look)
    assert found <= {"127.0.0.1"}


def test_more_rows_make_only_the_new_cells(fake: FakeSweep) -> None:
    fake.run(models=("mixnet_s",))
    fake.run(models=("mixnet_s", "shufflenet_g3"))
    assert fake.cells_made() == ["mixnet_s-fp16-quick", "shufflenet_g3-fp16-quick"]


def test_a_cell_is_made_again_if_its_file_changed_or_is_gone(fake: FakeSweep) -> None:
    made = fake.run(models=("mixnet_s",)).cells[0]
    file = fake.out / made.folder / "fp16" / "model.onnx"
    status = file.stat()
    os.utime(file, ns=(1, 1))  # as after a copy: the digest decides
    fake.run(models=("mixnet_s",))
    assert len(fake.log()) == 1
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, 1))
    fake.run(models=("mixnet_s",))
    assert len(fake.log()) == 2
    file.unlink()
    fake.run(models=("mixnet_s",))
    assert len(fake.log()) == 3


def test_a_cell_is_made_again_with_other_versions(fake: FakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.run(models=("mixnet_s",))
    monkeypatch.setattr(keys, "versions", lambda: {"torch": "0"})
    fake.run(models=("mixnet_s",))
    assert len(fake.log()) == 2


def test_a_failed_cell_is_a_row_and_the_sweep_goes_on(fake: FakeSweep) -> None:
    fake.control(**{"mixnet_s-fp16-quick": "fail"})
    made = {result.cell.model: result for result in fake.run().cells}
    failed = made.pop("mixnet_s")
    assert (failed.state, failed.exit_code, failed.problem) == (CellState.REFUSED, 7, "it is odd")
    assert {result.state for result in made.values()} == {CellState.PASSED}
    fake.run()
    assert len(fake.cells_made()) == 3  # the same failure is not repeated


def test_failed_shared_stages_are_the_reason_of_their_cells(fake: FakeSweep) -> None:
    fake.control(shared="fail")
    made = fake.run(models=("mixnet_s",), targets=("orin", "rtx40"))
    assert [(cell.state, cell.problem) for cell in made.cells] == [(CellState.REFUSED, "it is odd")] * 2
    assert not fake.cells_made()


def test_a_cell_whose_process_is_killed_is_repeated(fake: FakeSweep) -> None:
    fake.control(**{"mixnet_s-fp16-quick": "die once"})
    made = fake.run(models=("mixnet_s",))
    assert made.cells[0].state is CellState.PASSED
    assert fake.cells_made() == ["mixnet_s-fp16-quick"]


def test_a_cell_whose_process_is_always_killed_is_lost_and_tried_again_later(fake: FakeSweep) -> None:
    fake.control(**{"mixnet_s-fp16-quick": "die"})
    made = {result.cell.model: result for result in fake.run().cells}
    assert made["mixnet_s"].state is CellState.LOST
    assert made["mixnet_s"].problem.startswith("mixnet_s-fp16-quick was killed by SIGKILL")
    assert ".py" not in made["mixnet_s"].problem
    assert made["shufflenet_g3"].state is CellState.PASSED
    fake.control()
    assert fake.run().count(CellState.PASSED) == 3


def test_a_process_that_exits_without_a_result_is_said(fake: FakeSweep) -> None:
    fake.control(**{"mixnet_s-fp16-quick": "exit"})
    (made,) = fake.run(models=("mixnet_s",)).cells
    assert (made.state, made.problem) == (
        CellState.LOST,
        "the process of mixnet_s-fp16-quick ended without a result",
    )


def test_a_record_that_cannot_be_written_is_the_reason(fake: FakeSweep) -> None:
    record = fake.out / "mixnet_s-fp16-quick" / results.CELL_FILE
    (record / "folder").mkdir(parents=True)
    (made,) = fake.run(models=("mixnet_s",)).cells
    assert (made.state, made.remedy) == (CellState.LOST, "check the path, its permissions and the disk")
    assert "directory" in made.problem
    assert ".py" not in made.problem


def test_a_weights_file_that_changed_is_seen_in_the_same_process(fake: FakeSweep) -> None:
    weights = fake.folder / "w.pth"
    for content in (b"a", b"b", b"b"):
        weights.write_bytes(content)
        fake.run(models=("mixnet_s",), weights=(weights,))
    assert len(fake.log()) == 2


def test_a_second_sweep_in_one_folder_is_refused(fake: FakeSweep) -> None:
    with store.locked(fake.out), pytest.raises(BadInput, match="another sweep works in"):
        fake.run()


def test_a_hundred_timed_cells_never_overlap(fake: FakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_start", start_in_this_process)
    fake.control(sleep=0.01)
    made = fake.run(quick=False, batches=tuple(range(1, 35)), cluster=ClusterOptions(workers=3))
    assert len(made.cells) == 102
    assert all(cell.timed and cell.state is CellState.PASSED for cell in made.cells)
    assert not exclusive.overlaps(made.cells)
    log = sorted(fake.log(), key=lambda entry: float(entry["started"]))
    ends = [max(entry["ended"] for entry in log[: index + 1]) for index in range(len(log))]
    for before, entry in zip(ends, log[1:], strict=False):
        assert entry["folder"].startswith(".") or before <= entry["started"]


def start_in_this_process(job: Job, task: ChildTask, folder: Path) -> None:
    """The fake cell without a process of its own, which takes most of its time."""
    fake_child.make(task)


def test_overlaps_are_found(fake: FakeSweep) -> None:
    made = fake.run(models=("mixnet_s", "shufflenet_g3")).cells
    times = {"started": 1.0, "ended": 3.0, "machine": made[0].machine, "timed": True}
    together = [serde.decode(results.CellResult, {**_plain(cell), **_plain_values(times)}) for cell in made]
    assert exclusive.overlaps(together) == [(made[0].cell.name, made[1].cell.name)]


def _plain(value: object) -> dict[str, Any]:
    return dict(serde.encode(value))  # type: ignore[arg-type]


def _plain_values(values: dict[str, Any]) -> dict[str, Any]:
    return {name: serde.encode(value) for name, value in values.items()}


def test_timed_work_waits_for_the_lock_of_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive.on_this_machine(timed=False, path=path), exclusive.on_this_machine(timed=False, path=path):
        code = "from deploytool.sweeps import exclusive; import sys, pathlib\n"
        code += "with exclusive.on_this_machine(timed=True, path=pathlib.Path(sys.argv[1])): print('in')"
        waiting = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1.0)
    assert waiting.communicate(timeout=30)[0] == "in\n"


CLIENT = """
import sys
from pathlib import Path
from tests.sweeps.conftest import FakeSweep
from deploytool.sweeps.cluster_options import ClusterOptions
fake = FakeSweep(Path(sys.argv[1]))
fake.run(cluster=ClusterOptions(workers=1, scheduler=sys.argv[2]))
"""


def client(fake: FakeSweep, scheduler: str = "") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CLIENT, str(fake.folder), scheduler], cwd=ROOT)


def test_a_killed_client_loses_no_finished_cell_and_leaves_no_process(fake: FakeSweep) -> None:
    fake.control(sleep=1.0)
    process = client(fake)
    wait_for(lambda: [*fake.out.glob(f"*/{results.CELL_FILE}")])
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(fake.log())
    time.sleep(1.5)
    assert len(fake.log()) == finished  # its children ended with it
    made = fake.run(cluster=ClusterOptions(workers=1))
    assert made.count(CellState.PASSED) == 3
    assert sorted(fake.cells_made()) == sorted(cell.cell.name for cell in made.cells)


def test_a_copied_sweep_is_still_finished(fake: FakeSweep, tmp_path: Path) -> None:
    fake.run(models=("mixnet_s",))
    shutil.copytree(fake.out, tmp_path / "other")
    fake.out = tmp_path / "other"
    assert fake.run(models=("mixnet_s",)).reused == 1
    record = json.loads((fake.out / "mixnet_s-fp16-quick" / results.CELL_FILE).read_text())
    assert record["result"]["state"] == "passed"
