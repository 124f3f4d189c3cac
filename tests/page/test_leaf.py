"""What stands in a page: the terminal's verdict in the terminal's words, everything escaped, nothing from outside."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from deploytool import blamed, report, verdict
from deploytool.cli import summary
from deploytool.errors import BadInput
from deploytool.page import PAGE, facts, leaf
from deploytool.report import Report
from tests.conftest import modules_of
from tests.page import variants
from tests.page.variants import HOSTILE, written

Change = Callable[[Report], Report]
SECTIONS = ["chain", "layers", "speed", "engines", "proof", "images", "pending", "provenance"]
VOID = {"meta", "link", "img", "br", "hr", "input", "path", "use"}


class Reader(HTMLParser):
    """What a page holds: its tags with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(home: Path) -> Reader:
    return Reader(leaf.text(facts.read(home)))


def ids(page: Reader) -> list[str]:
    return [attributes["id"] for _, attributes in page.tags if "id" in attributes]


@pytest.mark.parametrize("change", [*variants.ENDINGS, variants.hostile])
def test_the_page_says_what_the_terminal_says(run_copy: Path, change: Change) -> None:
    changed = change(written(run_copy))
    page = read(variants.rewrite(run_copy, changed))
    closing = verdict.closing(changed, run_copy)
    for line in (closing.verdict, *closing.reasons[:1], *(step.what for step in closing.steps)):
        assert " ".join(line.split()) in page.text
    for step in closing.steps:
        assert step.command in page.text
    if closing.held:
        assert all(" ".join(line.split()) in page.text for line in closing.pending)
    terminal = summary._closing(closing, run_copy)
    assert terminal[0].startswith(f"Verdict: {closing.verdict}.")
    assert all(any(line.endswith(reason) for line in terminal) for reason in closing.reasons)


def test_the_sections_stand_in_their_order(finished: Path) -> None:
    page = read(finished)
    assert [name for name in ids(page) if name in SECTIONS] == SECTIONS
    assert ids(page).index("verdict") < ids(page).index("chain")


def test_every_hop_has_its_row_with_the_terminals_figures(finished: Path) -> None:
    page = read(finished)
    for hop in written(finished).hops:
        if hop.checks:
            assert f"{hop.checks[-1].parity.max_error:.1e}" in page.text
        assert f"{hop.stage}/{hop.file}" in page.text


def test_a_planted_fault_stands_at_the_top(failing: Path) -> None:
    page = read(failing)
    top = page.text[
        : page.text.index("At a glance") if "At a glance" in page.text else page.text.index("Checks that hold")
    ]
    assert "FAIL" in top
    assert "simplify against translate: max_error" in top
    assert "first in simplify/graph.onnx; translate/graph.onnx holds" in top
    assert f"deploytool blame {failing}" in top


def test_what_blame_found_is_where_it_failed(run_copy: Path) -> None:
    variants.rewrite(run_copy, variants.broken(written(run_copy)))
    _blame(run_copy, wrong=True)
    page = read(run_copy)
    assert "rewrite strays from simplify first in depthwise, seen at Conv /depthwise/Conv" in page.text
    assert f"deploytool blame {run_copy} --reduce" in page.text
    assert "plot-strip0-title" in ids(page)


def test_without_blame_the_page_says_how_to_get_the_strip(finished: Path) -> None:
    page = read(finished)
    assert "plot-strip0-title" not in ids(page)
    assert f"deploytool blame {finished}" in page.text


def test_blame_of_other_graphs_is_not_shown(run_copy: Path) -> None:
    _blame(run_copy, wrong=True)
    kept = run_copy / blamed.FILE
    kept.write_text(kept.read_text().replace(blamed._graphs(run_copy)["halve"], "0" * 64))
    assert "plot-strip0-title" not in ids(read(run_copy))


def test_bench_is_shown_while_its_files_are_those_of_the_run(run_copy: Path) -> None:
    variants.bench(run_copy)
    page = read(run_copy)
    assert {"plot-latencies-title", "plot-sweep-title", "bench-table"} <= set(ids(page))
    assert "At batch 8 the machine was too uneven to compare by the clock: it was busy" in page.text
    variants.bench(run_copy, batches=(4,))
    assert "plot-sweep-title" not in ids(read(run_copy))
    (run_copy / "halve" / "graph.onnx").write_bytes(b"another")
    page = read(run_copy)
    assert "plot-latencies-title" not in ids(page)
    assert f"deploytool bench {run_copy}" in page.text


@pytest.mark.parametrize("kept", ["", "{}", "[1]", '{"sweeps": 3, "files": {}}', '{"sweeps": [{}], "files": {}}'])
def test_a_bench_that_cannot_be_read_is_none(run_copy: Path, kept: str) -> None:
    (run_copy / "bench.json").write_text(kept)
    assert "bench-table" not in ids(read(run_copy))


def test_flips_are_shown_with_their_pictures(run_copy: Path) -> None:
    page = read(variants.rewrite(run_copy, variants.flipped(written(run_copy))))
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [each["alt"] for each in pictures] == ["Golden image 2", "Golden image 1"]
    assert all(each["src"].startswith("data:image/png;base64,") for each in pictures)
    assert "class 7 for 3, margin 1.0e-02" in page.text


def test_pending_targets_come_with_commands(run_copy: Path) -> None:
    page = read(variants.rewrite(run_copy, variants.pending(written(run_copy))))
    assert "○ an engine for orin" in page.text
    assert f"python -m deploytool.device build {run_copy}/pack/bundle" in page.text
    assert f"python -m deploytool.device verify {run_copy}/pack/bundle" in page.text


def test_somebody_elses_words_stay_words(run_copy: Path) -> None:
    changed = variants.hostile(written(run_copy))
    text = leaf.text(facts.read(variants.rewrite(run_copy, changed)))
    page = Reader(text)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "<script" not in text
    assert " ".join(HOSTILE.split()) in page.text
    assert "49" not in re.findall(r"alert\('x'\)</script>&\"(\w+)", page.text)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_the_page_of_a_run_in_a_folder_with_such_a_name(run_copy: Path) -> None:
    odd = run_copy.rename(run_copy.with_name('<b onclick="x">run'))
    page = read(odd)
    assert not [tag for tag, _ in page.tags if tag == "b"]
    assert f"deploytool blame {odd}" in page.text


def test_ids_are_unique_and_what_is_pointed_to_is_there(run_copy: Path) -> None:
    variants.bench(run_copy)
    _blame(run_copy, wrong=False)
    page = read(variants.rewrite(run_copy, variants.broken(variants.flipped(written(run_copy)))))
    found = ids(page)
    assert len(set(found)) == len(found)
    for _, attributes in page.tags:
        for name in attributes.get("aria-labelledby", "").split():
            assert name in found
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in found
        for name in re.findall(r"url\(#([^)]*)\)", " ".join(attributes.values())):
            assert name in found


def test_nothing_is_fetched_and_nothing_is_run(finished: Path) -> None:
    text = leaf.text(facts.read(finished))
    page = Reader(text)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    outside = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert all(link.startswith(("#", "data:")) for link in outside)
    assert "@import" not in text
    assert (
        re.findall(
            r"https?://[^\s\"'<]*",
            text.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", ""),
        )
        == []
    )


def test_the_same_run_gives_the_same_page(finished: Path) -> None:
    assert leaf.text(facts.read(finished)) == leaf.text(facts.read(finished))


def test_colours_are_those_of_the_page(finished: Path) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", leaf.text(facts.read(finished)), re.DOTALL))
    assert drawings
    named = set(re.findall(r"(?:fill|stroke): (#\w+)", drawings))
    assert not named, "these do not change with light and dark"


def test_a_run_that_lost_its_golden_images_still_has_a_page(run_copy: Path) -> None:
    (run_copy / "record" / "golden.npz").write_bytes(b"rotten")
    assert "Provenance" in read(run_copy).text
    (run_copy / "record" / "golden.npz").unlink()
    assert "Provenance" in read(run_copy).text


def test_a_report_alone_is_enough(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(variants.at(finished).read_bytes())
    page = read(tmp_path)
    assert "pass for all that ran here" in page.text
    assert "missing" in page.text


def test_no_report_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no report"):
        leaf.write(tmp_path)
    (tmp_path / "report.json").write_text('{"schema": "deploytool.report/1"}')
    with pytest.raises(BadInput, match="no report of this version"):
        leaf.write(tmp_path)


def test_it_is_written_whole_or_not_at_all(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_copy / PAGE).write_text("before")

    def fails(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(KeyboardInterrupt):
        leaf.write(run_copy)
    assert (run_copy / PAGE).read_text() == "before"


def test_the_templates_lie_in_the_package() -> None:
    folder = resources.files("deploytool.page") / "templates"
    assert {each.name for each in folder.iterdir()} >= {"page.html", "run.html", "family.html", "page.css"}


def test_matplotlib_stays_silent_without_a_home(finished: Path) -> None:
    run = f"Path({str(finished)!r})"
    program = f"from pathlib import Path; from deploytool.page import facts, leaf; leaf.text(facts.read({run}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"HOME": "/nowhere", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_facts_schema_and_junit_need_no_drawing() -> None:
    found = modules_of("from deploytool.page import facts, junit, schema, stamp, tiles")
    assert not {"matplotlib", "jinja2", "torch", "onnx"} & found
    assert not {"torch", "onnx", "onnxruntime"} & modules_of("from deploytool.page import leaf")


def _blame(run: Path, *, wrong: bool) -> None:
    """Leaves what blame might have found."""
    layer = blamed.Layer(
        "depthwise", "/depthwise/Conv_output_0", "/depthwise/Conv", "Conv", 0.5 if wrong else 1e-9, 1e-6
    )
    unknown = blamed.Layer("", "t", "n", "Sigmoid", None, 1e-6)
    finding = blamed.Finding("rewrite", "simplify", "depthwise", lost=False, layer=layer, before=None)
    hops = tuple(blamed.Hop(stage, (), (layer, unknown)) for stage in ("simplify", "rewrite"))
    blamed.write(run, blamed._graphs(run), blamed.Blame(hops, (0, 1), finding if wrong else None))


def test_unescaping_gives_back_what_was_written(run_copy: Path) -> None:
    changed = variants.hostile(written(run_copy))
    text = leaf.text(facts.read(variants.rewrite(run_copy, changed)))
    assert HOSTILE in unescape(text)
    assert report.read(variants.at(run_copy)).model == HOSTILE
