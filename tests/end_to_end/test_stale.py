"""Tests that a run is reused only while all files that the model's code read are unchanged."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deploytool.errors import BadInput
from deploytool.loading import catalog, user_code
from deploytool.pipeline import runner
from deploytool.results import receipt
from deploytool.spec import Job, Stage, Tensor
from tests.conftest import QUICK, modules_of

RECIPE = (Stage.LOAD, Stage.GOLDEN)
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
HEAD = """
import glob, json, os, sys
from pathlib import Path
import torch
from torch import nn
from safetensors.torch import load_file
HERE = Path(__file__).parent
def net(bias=0.0):
    layer = nn.Linear(4, 2)
    nn.init.constant_(layer.bias, bias)
    return layer
"""
PARTS = "nets/parts.py"


@pytest.fixture(autouse=True)
def restore_import_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    user_code.unload()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the factories below read; it is the working directory."""
    folder = tmp_path / "project"
    for name, text in {
        PARTS: "BIAS = 1.0\n",
        "pkg/__init__.py": "",
        "pkg/parts.py": "BIAS = 1.0\n",
        "config.json": '{"bias": 1.0}',
        "checkpoints/one.txt": "1.0",
        "checkpoints/two.txt": "2.0",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (tmp_path / "above.json").write_text('{"bias": 1.0}')
    torch.save({"bias": 1.0}, folder / "best.pt")
    save_file({"bias": torch.ones(2)}, folder / "best.safetensors")
    torch.jit.script(torch.nn.Linear(1, 1)).save(folder / "whole.ts")  # type: ignore[no-untyped-call]
    (folder / "latest.txt").symlink_to("checkpoints/one.txt")
    monkeypatch.chdir(folder)
    return folder


def fresh_stages(project: Path, body: str, out: str = "out") -> set[str]:
    """Exports the factory and returns the stages that were not reused."""
    if not (project / "net.py").exists():
        (project / "net.py").write_text(f"{HEAD}\n{body}\n")
    model = catalog.find("net.py:make", (Tensor("input", ("batch", 4)),))
    artifacts = runner.run(Job(model, QUICK), RECIPE, project / out)
    return {artifact.made_by for artifact in artifacts if artifact.fresh}


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda project: (project / name).write_text(text)


def retarget(project: Path) -> None:
    (project / "latest.txt").unlink()
    (project / "latest.txt").symlink_to("checkpoints/two.txt")


def replace_in_place(project: Path) -> None:
    before = (project / "best.pt").stat()
    torch.save({"bias": 2.0}, project / "best.pt")
    assert (project / "best.pt").stat().st_size == before.st_size
    os.utime(project / "best.pt", ns=(before.st_atime_ns, before.st_mtime_ns))


def retrain(project: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(project / "whole.ts")  # type: ignore[no-untyped-call]


JSON, TEXT = "json.loads(Path({}).read_text())['bias']", "float(Path({}).read_text())"
LOADED = "torch.load({})['bias']"
FORWARD = """
class Net(nn.Linear):
    def forward(self, x):
        import nets.parts
        return super().forward(x) * nets.parts.BIAS
def make(): return Net(4, 2)
"""
EXEC_IMPORT = """
def make():
    namespace = {}
    exec(Path('nets/parts.py').read_text(), namespace)
    return net(namespace['BIAS'])
"""
OPTIONAL_FILE = f"""
def make():
    try: return net({TEXT.format("'new.txt'")})
    except OSError: return net()
"""
LATE = "def make():\n    from nets.parts import BIAS\n    return net(BIAS)"
LISTS = "def make(): return net(float(len({})))"
ADD_CHECKPOINT, EDIT_PARTS = write("checkpoints/three.txt", "3.0"), write(PARTS, "BIAS = 2.0\n")
NEW_JSON = '{"bias": 2.0}'


def returns(bias: str, first: str = "") -> str:
    """A factory of a model with this bias."""
    return f"{first}\ndef make(): return net({bias})"


READS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "its own file": (returns("0."), write("net.py", f"{HEAD}\n{returns('2.')}\n")),
    "a package": (returns("BIAS", "from pkg.parts import BIAS"), write("pkg/parts.py", "BIAS = 2.0\n")),
    "a package without __init__": (returns("BIAS", "from nets.parts import BIAS"), EDIT_PARTS),
    "a late import": (LATE, EDIT_PARTS),
    "an import in forward": (FORWARD, EDIT_PARTS),
    "code run by exec": (EXEC_IMPORT, EDIT_PARTS),
    "a configuration": (returns(JSON.format("HERE / 'config.json'")), write("config.json", NEW_JSON)),
    "a configuration that changes no weight": (
        "def make():\n    Path('config.json').read_text()\n    return net()",
        write("config.json", NEW_JSON),
    ),
    "a file in the parent folder": (returns(JSON.format("'../above.json'")), write("../above.json", NEW_JSON)),
    "a checkpoint of the same size and time": (returns(LOADED.format("HERE / 'best.pt'")), replace_in_place),
    "a deleted checkpoint": (
        returns(f"{LOADED.format(repr('best.pt'))} if os.path.exists('best.pt') else 0."),
        lambda project: (project / "best.pt").unlink(),
    ),
    "a new checkpoint": (
        returns(f"{LOADED.format(repr('new.pt'))} if Path('new.pt').is_file() else 0."),
        lambda project: torch.save({"bias": 3.0}, project / "new.pt"),
    ),
    "a checkpoint that did not exist": (OPTIONAL_FILE, write("new.txt", "2.0")),
    "safetensors": (
        returns("float(load_file('best.safetensors')['bias'][0])"),
        lambda project: save_file({"bias": torch.zeros(2)}, project / "best.safetensors"),
    ),
    "TorchScript, read in C++": (returns("float(torch.jit.load('whole.ts').bias.detach())"), retrain),
    "a link with another target": (returns(TEXT.format("'latest.txt'")), retarget),
    "a listed folder": (LISTS.format("os.listdir('checkpoints')"), ADD_CHECKPOINT),
    "a pattern": (LISTS.format("glob.glob('checkpoints/*.txt')"), ADD_CHECKPOINT),
    "a walk": (LISTS.format("[name for _, _, names in os.walk('checkpoints') for name in names]"), ADD_CHECKPOINT),
    "os.open": (
        "def make():\n    os.close(os.open('config.json', os.O_RDONLY))\n    return net()",
        write("config.json", "{}"),
    ),
}


@pytest.mark.parametrize("source", READS)
def test_a_change_of_what_the_factory_read_is_detected(source: str, project: Path) -> None:
    body, change = READS[source]
    assert fresh_stages(project, body) == set(RECIPE)
    assert fresh_stages(project, body) == set()
    before = receipt.read(project / "out" / "load")
    change(project)
    with pytest.raises(BadInput, match="made from"):
        runner.check_source(project / "out")
    assert fresh_stages(project, body) == set(RECIPE)
    after = receipt.read(project / "out" / "load")
    assert before
    assert after
    assert before.key != after.key
    runner.check_source(project / "out")
    assert fresh_stages(project, body) == set()


@pytest.mark.parametrize(
    "change",
    [
        write("README.md", "new"),
        write("checkpoints/one.txt", "7.0"),
        write("train.log", "epoch 1"),
        lambda project: os.utime(project / "best.pt"),
        lambda project: (project / "pkg" / "__pycache__").mkdir(exist_ok=True),
    ],
    ids=["another file", "a file that was not read", "a log", "its time", "bytecode"],
)
def test_other_changes_do_not_invalidate_the_run(change: Callable[[Path], object], project: Path) -> None:
    body = "from pkg.parts import BIAS\ndef make(): return net(torch.load(HERE / 'best.pt')['bias'] + BIAS)"
    assert fresh_stages(project, body) == set(RECIPE)
    change(project)
    assert fresh_stages(project, body) == set()


def test_a_run_is_reused_after_its_project_was_moved(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "from nets.parts import BIAS\ndef make(): return net(torch.load(HERE / 'best.pt')['bias'] + BIAS)"
    fresh_stages(project, body)
    moved = project.rename(project.parent / "moved")
    monkeypatch.chdir(moved)
    assert fresh_stages(moved, body) == set()


def test_files_that_the_factory_writes_do_not_count(project: Path) -> None:
    logs = "    with open('seen.log', 'a') as log: log.write('once more')\n"
    body = f"def make():\n{logs}    return net(float(len(Path('seen.log').read_text()) > 0))"
    fresh_stages(project, body)
    assert fresh_stages(project, body) == set()
    fresh_stages(project, body, "elsewhere")
    assert fresh_stages(project, body) == set()


@pytest.mark.parametrize(
    ("body", "remark"),
    [
        (
            "import socket\ndef make():\n    socket.getaddrinfo('localhost', 80)\n    return net()",
            "accessed the network",
        ),
        ("import subprocess\ndef make():\n    subprocess.run(['true'])\n    return net()", "ran true"),
        ("def make():\n    os.system('true')\n    return net()", "ran true"),
    ],
)
def test_accesses_that_no_key_covers_are_remarks(body: str, remark: str, project: Path) -> None:
    fresh_stages(project, body)
    stage_receipt = receipt.read(project / "out" / "load")
    assert stage_receipt
    assert remark in str(stage_receipt.notes["remarks"])


def test_a_factory_without_other_accesses_has_no_remarks(project: Path) -> None:
    fresh_stages(project, "def make(): return net()")
    stage_receipt = receipt.read(project / "out" / "load")
    assert stage_receipt
    assert not stage_receipt.notes.get("remarks")


def test_a_run_of_a_zoo_model_lists_the_files_of_its_definition(tmp_path: Path) -> None:
    model = dataclasses.replace(catalog.find("squeezenet1_1"), inputs=(Tensor("input", ("batch", 3, 32, 32)),))
    list(runner.run(Job(model, QUICK), (Stage.LOAD,), tmp_path / "out"))
    stage_receipt = receipt.read(tmp_path / "out" / "load")
    assert stage_receipt
    assert "./squeezenet.py" in source_names(stage_receipt)
    runner.check_source(tmp_path / "out")


def source_names(stage_receipt: receipt.Receipt) -> set[str]:
    sources = stage_receipt.notes["sources"]
    assert isinstance(sources, dict)
    return set(sources)


def test_reusing_a_run_neither_imports_torch_nor_runs_the_users_code(project: Path) -> None:
    fresh_stages(project, "def make(): return net(torch.load(HERE / 'best.pt')['bias'])")
    program = f"""
import os; os.chdir({str(project)!r})
from pathlib import Path
from deploytool.loading import catalog; from deploytool.pipeline import runner
from deploytool.spec import Stage
from deploytool.spec import Job, Tensor
from tests.conftest import QUICK
model = catalog.find("net.py:make", (Tensor("input", ("batch", 4)),))
from deploytool.results import receipt
recipe = tuple(map(Stage, {[*map(str, RECIPE)]!r}))
assert not any(artifact.fresh for artifact in runner.run(Job(model, QUICK), recipe, Path("out")))
"""
    assert not {"torch", "net", "deploytool_user_net"} & modules_of(program)


def test_a_failed_import_inside_the_factory_is_one_line_with_a_remedy(project: Path) -> None:
    with pytest.raises(BadInput, match=r"net\.py:make: No module named 'no_such_thing'") as caught:
        fresh_stages(project, "def make():\n    import no_such_thing")
    assert "PYTHONPATH" in caught.value.remedy
