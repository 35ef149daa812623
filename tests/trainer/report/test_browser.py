"""The report in a real browser: it loads nothing, complains of nothing, fits, draws everything and runs no label."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.report.made_up import HOSTILE, write_everything
from trainer.report import report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]

pytestmark = [pytest.mark.browser, pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # an empty profile in a temporary folder is playwright's own default
        running = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield running
        running.close()


def full_page(folder: Path, **options: Any) -> Path:
    results, facts, texts = write_everything(folder, **options)
    return report(results, facts, folder / "report.html", texts)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    return full_page(folder)


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    labels = [HOSTILE, "<img src=x onerror=alert(2)>", "'\"]}{{ 7 * 7 }}&amp;", "datum.share", "x" * 300]
    return full_page(folder, labels=labels)


@pytest.fixture(scope="module")
def many_labels_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    labels = [f"label_number_{i:02d}" for i in range(77)]
    return full_page(folder, labels=labels, seeds=1)


class Visit:
    """One page view: what it asked for and what went wrong, with the page once its charts are drawn."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str = "light") -> None:
        self.requests: list[str] = []
        self.faults: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.documentElement.dataset.charts === 'drawn'", timeout=60_000)

    def width(self) -> int:
        return int(self.page.evaluate("document.scrollingElement.scrollWidth"))


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("name", ["page_file", "hostile_file", "many_labels_file"])
def test_it_loads_nothing_complains_of_nothing_fits_and_draws(
    browser: Any, name: str, width: int, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(name)
    visit = Visit(browser, path, width)
    assert visit.requests == [path.as_uri()]
    assert visit.faults == []
    assert visit.width() <= width
    charts = visit.page.evaluate("""[...document.querySelectorAll(".chart")].map(chart => ({
        words: chart.getAttribute("aria-label"), wide: chart.querySelector("svg")?.getBoundingClientRect().width ?? 0,
        drawn: [...chart.querySelectorAll("svg .role-mark path, svg .role-mark line")].filter(
            mark => { const box = mark.getBoundingClientRect(); return box.width + box.height > 2; }).length,
        labels: [...chart.querySelectorAll("svg text")].filter(text => text.textContent).length,
    }))""")
    assert len(charts) == 13
    for chart in charts:
        assert chart["wide"] > 0.6 * min(width, 360)
        assert chart["drawn"] > 1
        assert chart["labels"] > 4
        assert len(chart["words"]) > 20
    visit.page.close()


def test_it_follows_a_narrower_window_and_the_reading_scheme(browser: Any, page_file: Path) -> None:
    visit = Visit(browser, page_file, 1200, "light")
    colours = "[document.body, document.querySelector('.chart svg text')].map(e => getComputedStyle(e))"
    read = f"(([body, text]) => [body.backgroundColor, text.fill])({colours})"
    light = visit.page.evaluate(read)
    visit.page.emulate_media(color_scheme="dark")
    dark = visit.page.evaluate(read)
    assert light[0] == "rgb(255, 255, 255)"
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    visit.page.emulate_media(media="print")
    assert visit.page.evaluate(read) == light
    visit.page.emulate_media(media="screen")
    visit.page.set_viewport_size({"width": 400, "height": 900})
    visit.page.wait_for_function("document.querySelector('.chart svg').getBoundingClientRect().width <= 400")
    assert visit.width() <= 400
    assert visit.faults == []
    visit.page.close()


def test_a_hostile_label_is_text_in_cells_axes_and_tooltips(browser: Any, hostile_file: Path) -> None:
    visit = Visit(browser, hostile_file, 1200)
    confusion = visit.page.locator("section[aria-labelledby=confusion]")
    assert confusion.locator("tbody th").first.text_content() == HOSTILE
    assert HOSTILE[:15] in "".join(confusion.locator("svg text").all_text_contents())
    # near its corner: the number in the middle of a cell lies above it
    confusion.locator("svg .mark-rect path[aria-label*='/script']").first.hover(position={"x": 6, "y": 6})
    visit.page.wait_for_selector("#vg-tooltip-element.visible")
    assert HOSTILE in visit.page.locator("#vg-tooltip-element").text_content()
    assert visit.page.locator("img").count() == 0
    assert visit.faults == []
    visit.page.close()


def test_the_policy_runs_no_other_script(browser: Any, page_file: Path) -> None:
    visit = Visit(browser, page_file, 1200)
    visit.page.evaluate("""() => {
        const added = document.createElement("script");
        added.textContent = "window.ran = true";
        document.body.append(added);
    }""")
    assert visit.page.evaluate("window.ran === undefined")
    assert "Content Security Policy" in visit.faults[0]
    visit.page.close()
