"""The user's own metric in a child process: what it gets, and how one that fails is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploytool.data.golden import Arrays
from deploytool.data.labels.labelled_images import Target
from deploytool.errors import BadInput
from deploytool.host import workers
from deploytool.metrics import user_metric
from deploytool.tasks.annotations import Boxes

OUTPUTS: Arrays = {"logits": np.eye(3, dtype=np.float32), "file": np.zeros((3, 2), np.int64)}


@pytest.fixture
def metric(tmp_path: Path) -> Path:
    return tmp_path / "metric.py"


def test_a_metric_gets_outputs_by_name_and_the_targets(metric: Path) -> None:
    metric.write_text(
        "import numpy as np\n"
        "def score(outputs, targets):\n"
        "    assert list(outputs) == ['logits', 'file'] and outputs['file'].dtype == np.int64\n"
        "    return (outputs['logits'].argmax(1) == targets).astype(float)\n"
    )
    assert user_metric.scores(f"{metric}:score", OUTPUTS, [0, 1, 1]).tolist() == [1.0, 1.0, 0.0]


def test_every_kind_of_target_arrives(metric: Path, tmp_path: Path) -> None:
    Image.new("L", (4, 2), 7).save(tmp_path / "mask.png")
    boxes = Boxes(np.array([[1.0, 2.0, 3.0, 4.5]]), np.array([5]), np.array([True]))
    metric.write_text(
        "def score(outputs, targets):\n"
        "    boxes, words, mask = targets\n"
        "    assert boxes['boxes'].tolist() == [[1, 2, 3, 4.5]] and boxes['classes'].tolist() == [5]\n"
        "    assert boxes['crowd'].tolist() == [True] and words == ['a', 'b']\n"
        "    assert mask.shape == (2, 4) and mask.dtype == 'uint8' and (mask == 7).all()\n"
        "    return [1, 2, 3]\n"
    )
    targets: list[Target] = [boxes, ("a", "b"), tmp_path / "mask.png"]
    assert user_metric.scores(f"{metric}:score", OUTPUTS, targets).tolist() == [1, 2, 3]
    metric.write_text("def score(outputs, targets):\n    return [float(target is None) for target in targets]\n")
    assert user_metric.scores(f"{metric}:score", OUTPUTS, [None, 1, ()]).tolist() == [1, 0, 0]


BAD = {
    "raise ValueError('no such\\nthing')": r"score raises ValueError: no such thing \(metric.py:2\)",
    "return [1.0]": "score returns 1 for 3 images",
    "return 0.5": "score returns one number for 3 images",
    "return [[1.0], [1.0], [1.0]]": "score returns 3 × 1 for 3 images",
    "return [1.0, float('nan'), 0.0]": "score returns nan for image 1",
    "return [1.0, 1e400, 0.0]": "score returns inf for image 1",
    "return [1.0, 0.0, -1e308]": r"score returns -1e\+308 for image 2, which is too large",
    "return ['a', 'b', 'c']": "score raises ValueError",
    "return None": "score returns one number for 3 images",
    "raise SystemExit(0)": "score raises SystemExit",
    "import os; os._exit(0)": "ended without a result",
    "import os; os.kill(os.getpid(), 11)": "killed by SIGSEGV",
}


@pytest.mark.parametrize("body", BAD)
def test_a_bad_metric_is_one_line(body: str, metric: Path) -> None:
    metric.write_text(f"def score(outputs, targets):\n    {body}\n")
    with pytest.raises(BadInput, match=BAD[body]) as error:
        user_metric.scores(f"{metric}:score", OUTPUTS, [0, 1, 2])
    assert "\n" not in str(error.value)


def test_what_a_metric_prints_is_no_result(metric: Path, capfd: pytest.CaptureFixture[str]) -> None:
    metric.write_text("print('hello')\ndef score(outputs, targets):\n    print('{}')\n    return [1, 1, 1]\n")
    assert user_metric.scores(f"{metric}:score", OUTPUTS, [0, 1, 2]).sum() == 3
    assert capfd.readouterr().out == ""


def test_a_metric_that_hangs_is_stopped(metric: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_metric, "_SECONDS", 1.0)
    monkeypatch.setattr(user_metric, "_SECONDS_PER_IMAGE", 0.0)
    metric.write_text("import time\ndef score(outputs, targets):\n    time.sleep(1000)\n")
    with pytest.raises(BadInput, match="was stopped after 1 s"):
        user_metric.scores(f"{metric}:score", OUTPUTS, [0, 1, 2])


def test_importing_a_metric_calls_nothing_and_is_limited(metric: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metric.write_text("def score(outputs, targets):\n    raise ValueError\n")
    user_metric.try_import(f"{metric}:score")
    for code, problem in {
        "import no_such_module": "it cannot be imported: .*No module named 'no_such_module'",
        "raise SystemExit(0)": "it cannot be imported: SystemExit",
    }.items():
        metric.write_text(f"{code}\ndef score(outputs, targets): ...\n")
        with pytest.raises(BadInput, match=problem) as refused:
            user_metric.try_import(f"{metric}:score")
        assert refused.value.remedy.startswith("name a function that Python can import here")
    monkeypatch.setattr(user_metric, "_SECONDS", 1.0)
    metric.write_text("import time\ntime.sleep(1000)\ndef score(outputs, targets): ...\n")
    with pytest.raises(BadInput, match="was stopped after 1 s"):
        user_metric.try_import(f"{metric}:score")


def test_a_metric_that_eats_memory_is_stopped(metric: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MEMORY_GIB", 1.0)
    metric.write_text("import numpy as np\ndef score(outputs, targets):\n    return np.ones(1 << 32)\n")
    with pytest.raises(BadInput, match=r"MemoryError|more than 1 GiB"):
        user_metric.scores(f"{metric}:score", OUTPUTS, [0, 1, 2])


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("score", "'score' is no metric"),
        ("missing.py:score", "there is no file missing.py"),
        ("no_such_module_at_all:score", "no module"),
    ],
)
def test_a_metric_that_does_not_exist_is_refused_before_the_run(reference: str, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        user_metric.check(reference)


def test_a_function_that_the_file_lacks_is_refused_without_importing_it(metric: Path) -> None:
    metric.write_text("raise RuntimeError\nfrom os import path as imported\nassigned = len\ndef score(): ...\n")
    for name in ("score", "imported", "assigned"):
        assert user_metric.check(f"{metric}:{name}")
    with pytest.raises(BadInput, match="defines no function 'other'"):
        user_metric.check(f"{metric}:other")
    metric.write_text("try:\n    import torch\nexcept ImportError:\n    def score(): ...\n")
    assert user_metric.check(f"{metric}:score")
    metric.write_text("from elsewhere import *\n")
    assert user_metric.check(f"{metric}:score")
    metric.write_text("def score(:\n")
    with pytest.raises(BadInput, match="is not Python code"):
        user_metric.check(f"{metric}:score")


def test_the_digest_follows_the_file(metric: Path) -> None:
    metric.write_text("def score(outputs, targets): return 1\n")
    before = user_metric.check(f"{metric}:score")
    metric.write_text("def score(outputs, targets): return 2\n")
    assert user_metric.check(f"{metric}:score") != before
