"""What stands in a page: the terminal's verdict in the terminal's words, everything escaped, nothing from outside."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from importlib import resources
from pathlib import Path

import pytest

from deploytool.cli import summary
from deploytool.report import PAGE, html, run_data
from deploytool.results import report, verdict
from deploytool.results.report import Report
from tests.conftest import modules_of
from tests.report import variants
from tests.report.reading import SECTIONS, Reader, ids, read
from tests.report.variants import HOSTILE, written

Change = Callable[[Report], Report]


@pytest.mark.parametrize("change", [*variants.ENDINGS, variants.hostile])
def test_the_page_says_what_the_terminal_says(run_copy: Path, change: Change) -> None:
    changed = change(written(run_copy))
    page = read(variants.rewrite(run_copy, changed))
    closing = verdict.conclude(changed, run_copy)
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


def test_every_comparison_has_its_row_with_the_terminals_figures(finished: Path) -> None:
    page = read(finished)
    for comparison in written(finished).comparisons:
        if comparison.checks:
            assert f"{comparison.checks[-1].parity.max_error:.1e}" in page.text
        assert f"{comparison.stage}/{comparison.file}" in page.text


def test_a_planted_fault_stands_at_the_top(failing: Path) -> None:
    page = read(failing)
    top = page.text[
        : page.text.index("At a glance") if "At a glance" in page.text else page.text.index("Checks that hold")
    ]
    assert "FAIL" in top
    assert "simplify against translate: the largest error" in top
    assert "first in simplify/model.onnx; export/model.onnx holds" in top
    assert f"deploytool blame {failing}" in top


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


def test_what_was_left_out_comes_with_the_command_that_does_it(run_copy: Path) -> None:
    page = read(variants.rewrite(run_copy, variants.bare(written(run_copy))))
    waiting = page.text[page.text.rindex("Pending") :]
    assert f"deploytool bench {run_copy}" in waiting
    assert f"deploytool faults {run_copy}" in waiting
    assert "0 rounds" not in page.text


def test_a_speed_that_was_asked_for_and_not_measured_comes_with_its_command(run_copy: Path) -> None:
    page = read(variants.rewrite(run_copy, variants.late(written(run_copy))))
    waiting = page.text[page.text.rindex("Pending") :]
    assert f"deploytool bench {run_copy} --min-speedup 99" in waiting


def test_somebody_elses_words_stay_words(run_copy: Path) -> None:
    changed = variants.hostile(written(run_copy))
    text = html.text(run_data.read(variants.rewrite(run_copy, changed)))
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
    variants.blame(run_copy, wrong=False)
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
    text = html.text(run_data.read(finished))
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
    assert html.text(run_data.read(finished)) == html.text(run_data.read(finished))


def test_colours_are_those_of_the_page(finished: Path) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", html.text(run_data.read(finished)), re.DOTALL))
    assert drawings
    named = set(re.findall(r"(?:fill|stroke): (#\w+)", drawings))
    assert not named, "these do not change with light and dark"


def test_it_is_written_whole_or_not_at_all(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_copy / PAGE).write_text("before")

    def fails(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(KeyboardInterrupt):
        html.write(run_copy)
    assert (run_copy / PAGE).read_text() == "before"


def test_the_templates_lie_in_the_package() -> None:
    folder = resources.files("deploytool.report") / "templates"
    assert {each.name for each in folder.iterdir()} >= {"page.html", "run.html", "family.html", "page.css"}


def test_matplotlib_stays_silent_without_a_home(finished: Path) -> None:
    run = f"Path({str(finished)!r})"
    program = f"from pathlib import Path; from deploytool.report import facts, leaf; leaf.text(facts.read({run}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"HOME": "/nowhere", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_facts_schema_and_junit_need_no_drawing() -> None:
    found = modules_of("from deploytool.report import facts, junit, schema, stamp, tiles")
    assert not {"matplotlib", "jinja2", "torch", "onnx"} & found
    assert not {"torch", "onnx", "onnxruntime"} & modules_of("from deploytool.report import leaf")


def test_unescaping_gives_back_what_was_written(run_copy: Path) -> None:
    changed = variants.hostile(written(run_copy))
    text = html.text(run_data.read(variants.rewrite(run_copy, changed)))
    assert HOSTILE in unescape(text)
    assert report.read(variants.at(run_copy)).model == HOSTILE
