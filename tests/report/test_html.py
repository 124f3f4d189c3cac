"""The page of a run: the same verdict as in the terminal, all text escaped, and no external resources."""

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
from deploytool.report import html, run_data
from deploytool.results import report, verdict
from deploytool.results.artifact import PAGE
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
    conclusion = verdict.conclude(changed, run_copy)
    for line in (conclusion.verdict, *conclusion.reasons[:1], *(step.what for step in conclusion.steps)):
        assert " ".join(line.split()) in page.text
    for step in conclusion.steps:
        assert step.command in page.text
    if conclusion.passed:
        assert all(" ".join(line.split()) in page.text for line in conclusion.pending)
    terminal = summary._verdict_lines(conclusion, run_copy)
    assert terminal[0].startswith(f"Verdict: {conclusion.verdict}.")
    assert all(any(line.endswith(reason) for line in terminal) for reason in conclusion.reasons)


def test_the_sections_are_in_order(finished: Path) -> None:
    page = read(finished)
    assert [name for name in ids(page) if name in SECTIONS] == SECTIONS
    assert ids(page).index("verdict") < ids(page).index("comparisons")


def test_every_comparison_has_a_row_with_its_error(finished: Path) -> None:
    page = read(finished)
    for comparison in written(finished).comparisons:
        if comparison.checks:
            assert f"{comparison.checks[-1].parity.max_error:.1e}" in page.text
        assert f"{comparison.stage}/{comparison.file}" in page.text


def test_a_failure_is_described_at_the_top(failing: Path) -> None:
    page = read(failing)
    top = page.text[: page.text.index("Checks passed")]
    assert "FAIL" in top
    assert "simplify against export: the largest error" in top
    assert "first in simplify/model.onnx; export/model.onnx passes" in top
    assert f"deploytool blame {failing}" in top


def test_flips_are_shown_with_their_images(run_copy: Path) -> None:
    page = read(variants.rewrite(run_copy, variants.flipped(written(run_copy))))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [image["alt"] for image in images] == ["Golden image 2", "Golden image 1"]
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert "class 7 for 3, margin 1.0e-02" in page.text


def test_pending_targets_have_commands(run_copy: Path) -> None:
    page = read(variants.rewrite(run_copy, variants.pending(written(run_copy))))
    assert "○ an engine for orin" in page.text
    assert f"python -m deploytool.device build {run_copy}/pack/bundle" in page.text
    assert f"python -m deploytool.device verify {run_copy}/pack/bundle" in page.text
    assert "\\n" not in page.text, "each command has its own line"


def test_omitted_measurements_have_commands(run_copy: Path) -> None:
    page = read(variants.rewrite(run_copy, variants.bare(written(run_copy))))
    section = page.text[page.text.rindex("Pending") :]
    assert f"deploytool bench {run_copy}" in section
    assert f"deploytool faults {run_copy}" in section
    assert "0 rounds" not in page.text


def test_a_required_speed_up_that_was_not_measured_has_a_command(run_copy: Path) -> None:
    page = read(variants.rewrite(run_copy, variants.open_gate(written(run_copy))))
    section = page.text[page.text.rindex("Pending") :]
    assert f"deploytool bench {run_copy} --min-speedup 99" in section


def test_hostile_text_is_escaped(run_copy: Path) -> None:
    changed = variants.hostile(written(run_copy))
    text = html.render(run_data.read(variants.rewrite(run_copy, changed)))
    page = Reader(text)
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "<script" not in text
    assert " ".join(HOSTILE.split()) in page.text
    assert "49" not in re.findall(r"alert\('x'\)</script>&\"(\w+)", page.text)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_a_hostile_folder_name_is_escaped(run_copy: Path) -> None:
    odd = run_copy.rename(run_copy.with_name('<b onclick="x">run'))
    page = read(odd)
    assert not [tag for tag, _ in page.tags if tag == "b"]
    assert f"deploytool blame {odd}" in page.text


def test_ids_are_unique_and_references_resolve(run_copy: Path) -> None:
    variants.bench(run_copy)
    variants.blame(run_copy, wrong=False)
    page = read(variants.rewrite(run_copy, variants.broken(variants.flipped(written(run_copy)))))
    names = ids(page)
    assert len(set(names)) == len(names)
    for _, attributes in page.tags:
        for name in attributes.get("aria-labelledby", "").split():
            assert name in names
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in names
        for name in re.findall(r"url\(#([^)]*)\)", " ".join(attributes.values())):
            assert name in names


def test_the_page_has_no_scripts_and_no_external_resources(finished: Path) -> None:
    text = html.render(run_data.read(finished))
    page = Reader(text)
    assert not {"script", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    links = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in text
    assert (
        re.findall(
            r"https?://[^\s\"'<]*",
            text.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", ""),
        )
        == []
    )


def test_rendering_is_deterministic(finished: Path) -> None:
    assert html.render(run_data.read(finished)) == html.render(run_data.read(finished))


def test_plots_use_only_the_colours_of_the_page(finished: Path) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", html.render(run_data.read(finished)), re.DOTALL))
    assert drawings
    fixed_colours = set(re.findall(r"(?:fill|stroke): (#\w+)", drawings))
    assert not fixed_colours, "these do not follow light and dark mode"


def test_an_interrupted_write_keeps_the_previous_page(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_copy / PAGE).write_text("before")

    def interrupt(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        html.write(run_copy)
    assert (run_copy / PAGE).read_text() == "before"


def test_the_templates_are_in_the_package() -> None:
    folder = resources.files("deploytool.report") / "templates"
    assert {file.name for file in folder.iterdir()} >= {"page.html", "run.html", "runs.html", "page.css"}


def test_matplotlib_prints_nothing_without_a_home_folder(finished: Path) -> None:
    run = f"Path({str(finished)!r})"
    program = (
        f"from pathlib import Path; from deploytool.report import html, run_data; html.render(run_data.read({run}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"HOME": "/nowhere", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.integration
def test_run_data_schema_and_junit_import_no_plotting_library() -> None:
    modules = modules_of("from deploytool.report import run_data, junit, json_schema, stamp, tiles")
    assert not {"matplotlib", "jinja2", "torch", "onnx"} & modules
    assert not {"torch", "onnx", "onnxruntime"} & modules_of("from deploytool.report import html")


def test_unescaping_restores_the_text(run_copy: Path) -> None:
    changed = variants.hostile(written(run_copy))
    text = html.render(run_data.read(variants.rewrite(run_copy, changed)))
    assert HOSTILE in unescape(text)
    assert report.read(variants.report_path(run_copy)).model == HOSTILE
