"""The page in Chromium: no console messages or requests, fits a phone, readable in light, dark and print."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page

from deploytool.report import html, sweep_page
from deploytool.results.artifact import PAGE
from tests.report import sweeps, variants
from tests.report.reading import SECTIONS
from tests.report.variants import written

PHONE, DESKTOP, PAPER = (360, 740), (1280, 800), (688, 970)  # CSS pixels; PAPER is A4 without its margins
Scheme = Literal["light", "dark"]

CONTRAST = """() => {
  const parse = text => {
    const n = text.match(/[\\d.]+/g).map(Number);
    return n.length < 4 ? [...n.slice(0, 3), 1] : n;
  };
  const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3]));
  const behind = element => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const bad = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, style = getComputedStyle(element);
    const text = walk.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest("title, desc, style")) continue;
    const drawn = element instanceof SVGElement;
    const back = behind(drawn ? element.closest("figure") : element);
    const front = over(parse(drawn ? style.fill : style.color), back);
    const [high, low] = [light(front), light(back)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    seen += 1;
    if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${element.tagName} ${text.slice(0, 40)}`);
  }
  return [seen, bad];
}"""
WIDER = """() => [...document.querySelectorAll("*")]
  .filter(each => !each.closest(".scroll, svg, .skip"))
  .filter(each => each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(each => each.outerHTML.slice(0, 80))"""
SMALLEST = (
    """() => Math.min(...[...document.querySelectorAll("svg text")].map(each => each.getBoundingClientRect().height))"""
)


@pytest.fixture(scope="module")
def rich(failing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A failing run with all optional content of a page."""
    run = Path(shutil.copytree(failing, tmp_path_factory.mktemp("rich") / "tiny"))
    variants.bench(run)
    variants.blame(run, wrong=True)
    return variants.rewrite(run, variants.pending(variants.flipped(written(run))))


@pytest.fixture(scope="module")
def passing(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("passing") / "tiny"))


class Watched:
    """A page with its console messages and its requests."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.messages: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    context = browser.new_context()
    yield Watched(context.new_page())
    context.close()


def show(watched: Watched, file: Path, size: tuple[int, int], scheme: Scheme = "light") -> Page:
    watched.page.set_viewport_size({"width": size[0], "height": size[1]})
    watched.page.emulate_media(color_scheme=scheme)
    watched.page.goto(file.as_uri())
    return watched.page


@pytest.fixture(scope="module", params=["rich", "passing", "several", "sweep", "large sweep"])
def file(request: pytest.FixtureRequest, rich: Path, passing: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of each kind."""
    if "sweep" in request.param:
        sweep = sweeps.sweep(
            sweeps.cells(80, targets=[f"target_{number}" for number in range(30)]) if "large" in request.param else None
        )
        return sweep_page.write_pages(sweep, sweeps.store(tmp_path_factory.mktemp("sweep"), sweep))
    if request.param == "several":
        return html.write_comparison((passing, rich), tmp_path_factory.mktemp("several") / "several.html")
    return html.write(rich if request.param == "rich" else passing)


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_silent_fits_the_screen_and_has_contrast(
    watched: Watched, file: Path, size: tuple[int, int], scheme: Scheme
) -> None:
    page = show(watched, file, size, scheme)
    assert watched.messages == []
    assert [url for url in watched.requests if not url.startswith("data:")] == [file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate(WIDER) == []
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    seen, bad = page.evaluate(CONTRAST)
    assert seen > 50
    assert bad == []
    if page.locator("svg text").count():
        assert page.evaluate(SMALLEST) >= 9
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").split(",")[0]
    assert (int(dark) < 60) == (scheme == "dark")


def test_the_contrast_measurement_detects_low_contrast(watched: Watched, passing: Path) -> None:
    page = show(watched, html.write(passing), DESKTOP)
    page.evaluate("document.documentElement.style.setProperty('--muted', '#aaaaaa')")
    _, bad = page.evaluate(CONTRAST)
    assert any("tspan" in line or "text" in line for line in bad)
    assert any("FIGCAPTION" in line for line in bad)


@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_the_first_screen_of_a_failing_run_shows_what_where_and_the_next_step(
    watched: Watched, failing: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    run = Path(shutil.copytree(failing, tmp_path / "tiny"))
    page = show(watched, html.write(run), size)
    for text in (
        "FAIL",
        "simplify against export: the largest error",
        "first in simplify/model.onnx",
        f"deploytool blame {run}",
    ):
        box = page.get_by_text(text).first.bounding_box()
        assert box is not None
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= size[1], f"{text!r} is below the first screen"


def test_a_page_has_landmarks_ordered_headings_and_table_captions(watched: Watched, rich: Path) -> None:
    page = show(watched, html.write(rich), DESKTOP)
    for role in ("banner", "main", "contentinfo", "navigation"):
        assert page.get_by_role(role).count() == 1, role
    levels = [
        int(each[1]) for each in page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(each => each.tagName)")
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= before + 1 for before, later in pairwise(levels))
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    named: list[Any] = page.eval_on_selector_all("table", "all => all.map(each => each.caption?.textContent ?? '')")
    assert named
    assert all(named)
    assert (
        page.eval_on_selector_all(
            "img, svg", "all => all.filter(each => !each.alt && each.getAttribute('role') != 'img').length"
        )
        == 0
    )
    assert (
        page.eval_on_selector_all(
            "svg", "all => all.filter(each => !each.querySelector('title, desc').textContent).length"
        )
        == 0
    )
    for name in SECTIONS:
        assert page.locator(f"#{name} h2").count() == 1


def test_the_keyboard_reaches_the_results_and_wide_tables(watched: Watched, passing: Path) -> None:
    page = show(watched, html.write(passing), PHONE)
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.inner_text() == "Skip to the results"
    box = skip.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")
    wide = page.locator("#comparisons .scroll").first
    wide.focus()
    before = wide.evaluate("each => each.scrollLeft")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.activeElement.scrollLeft > 0", timeout=2000)
    assert before == 0


def test_nothing_is_cut_off_in_print(watched: Watched, rich: Path) -> None:
    page = show(watched, html.write(rich), PAPER, "dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.get_by_role("navigation").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#checks-table").is_visible(), "collapsed content is printed"
    assert page.evaluate("document.documentElement.scrollWidth") <= PAPER[0]
    cut = "all => all.filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.innerText.slice(0, 40))"
    assert page.eval_on_selector_all(".scroll", cut) == []
    _, bad = page.evaluate(CONTRAST)
    assert bad == []
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_the_page_of_several_runs_links_to_their_pages(
    watched: Watched, passing: Path, rich: Path, tmp_path: Path
) -> None:
    html.write(passing)
    html.write(rich)
    several = html.write_comparison((passing, rich), tmp_path / "several.html")
    page = show(watched, several, DESKTOP)
    page.get_by_role("row").nth(1).get_by_role("link").click()
    assert page.url == (passing / PAGE).resolve().as_uri()


def test_a_square_of_a_sweep_leads_to_the_report_of_its_cell(watched: Watched, tmp_path: Path) -> None:
    sweep = sweeps.sweep()
    home = sweeps.store(tmp_path / "sweep", sweep)
    page = show(watched, sweep_page.write_pages(sweep, home), PHONE)
    scroll = page.locator("#map .scroll").first
    scroll.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.activeElement.scrollLeft > 0", timeout=2000)
    label = page.locator("#map tbody th").first
    box = label.bounding_box()
    assert box is not None
    assert box["x"] >= 0, "the model stays in view"
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "✓ pass"
    page.keyboard.press("Enter")
    page.wait_for_url("**/report.html")
    assert page.title() == "a cell"


def test_nothing_of_a_sweep_is_cut_off_in_print(watched: Watched, tmp_path: Path) -> None:
    sweep = sweeps.sweep()
    page = show(watched, sweep_page.write_pages(sweep, sweeps.store(tmp_path / "sweep", sweep)), PAPER)
    page.emulate_media(media="print")
    cut = "all => all.filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.innerText.slice(0, 40))"
    assert page.eval_on_selector_all(".scroll", cut) == []
    assert page.locator("#front-1").is_visible(), "collapsed content is printed"
