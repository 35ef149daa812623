"""The report in a real browser: it loads nothing, complains of nothing, fits, draws everything and runs no label."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.report.made_up import HOSTILE, why_told, write_everything
from trainer.report import compare, report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
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
    (results / "why.json").write_text(json.dumps(why_told(results)))
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


@pytest.fixture(scope="module")
def compare_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    runs = [write_everything(folder / name, seeds=2)[0] for name in ("a", "b")]
    return compare([f"{HOSTILE}={runs[0]}", f"other={runs[1]}"], folder / "compare.html")


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


VIEWS = [(width, scheme) for width in (360, 768, 1280) for scheme in ("light", "dark")]
CHARTS = {"page_file": 24, "hostile_file": 24, "many_labels_file": 24, "compare_file": 9}
"""By page: how many are drawn."""


OFTEN = {"page_file", "compare_file"}
"""Pages of which every view is looked at always; of the others, which differ by their data, the narrowest."""


def _visits() -> Iterator[Any]:
    for name in CHARTS:
        for view in VIEWS:
            always = name in OFTEN or view == VIEWS[0]
            yield pytest.param(name, *view, marks=[] if always else pytest.mark.exhaustive)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width", "scheme"), list(_visits()))
def test_it_loads_nothing_complains_of_nothing_fits_draws_and_is_accessible(
    browser: Any, name: str, width: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(name)
    visit = Visit(browser, path, width, scheme)
    assert visit.requests == [path.as_uri()]
    assert visit.faults == []
    assert visit.width() <= width
    charts = visit.page.evaluate("""[...document.querySelectorAll(".chart")].map(chart => ({
        words: chart.getAttribute("aria-label"), wide: chart.querySelector("svg")?.getBoundingClientRect().width ?? 0,
        drawn: [...chart.querySelectorAll("svg .role-mark path, svg .role-mark line")].filter(
            mark => { const box = mark.getBoundingClientRect(); return box.width + box.height > 2; }).length,
        labels: [...chart.querySelectorAll("svg text")].filter(text => text.textContent).length,
    }))""")
    assert len(charts) == CHARTS[name]
    for chart in charts:
        assert chart["wide"] > 0.6 * min(width, 360)
        assert chart["drawn"] > 1
        assert chart["labels"] > 4
        assert len(chart["words"]) > 20
    assert serious(visit.page) == []
    visit.page.close()


def serious(page: Any) -> list[str]:
    """What axe finds that keeps a reader out."""
    # Details are opened, as what is hidden is not looked at; of their rows, which are alike, a few are enough.
    page.evaluate("""() => {
        document.querySelectorAll("details").forEach(details => { details.open = true; });
        document.querySelectorAll("details tr:nth-child(n + 4)").forEach(row => row.remove());
    }""")
    found = axe.Axe().run(page).response
    return [
        f"{fault['id']}: {fault['nodes'][0]['html'][:200]}"
        for fault in found["violations"] if fault["impact"] in ("serious", "critical")
    ]  # fmt: skip


def test_axe_would_find_a_fault(browser: Any, page_file: Path) -> None:
    visit = Visit(browser, page_file, 1280)
    visit.page.evaluate("document.querySelector('.filter label').remove()")
    assert [fault.partition(":")[0] for fault in serious(visit.page)] == ["label"]
    visit.page.close()


def column(page: Any, number: int) -> list[str]:
    """What the leaderboard shows in one column, of the rows that are seen."""
    cells = f"table[data-sorts] tbody tr:not([hidden]) > :nth-child({number})"
    texts: list[str] = page.locator(cells).evaluate_all("cells => cells.map(cell => cell.dataset.value)")
    return texts


def test_the_table_sorts_by_keyboard(browser: Any, page_file: Path) -> None:
    visit = Visit(browser, page_file, 1280)
    heads = column(visit.page, 2)
    buttons = visit.page.locator("table[data-sorts] thead button")
    buttons.first.focus()
    for _ in range(3):
        visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Enter")
    scores = [float(value) for value in column(visit.page, 4)]
    assert scores == sorted(scores, reverse=True)
    sorted_by = visit.page.locator("table[data-sorts] th[aria-sort]")
    assert (sorted_by.count(), sorted_by.text_content()) == (1, "Test")
    assert sorted_by.get_attribute("aria-sort") == "descending"
    visit.page.keyboard.press("Space")
    assert [float(value) for value in column(visit.page, 4)] == sorted(scores)
    buttons.nth(1).press("Enter")
    assert column(visit.page, 2) == sorted(heads)
    buttons.first.press("Enter")
    assert column(visit.page, 2) == heads
    assert visit.faults == []
    visit.page.close()


def test_what_is_not_known_comes_last_in_either_order(browser: Any, page_file: Path) -> None:
    visit = Visit(browser, page_file, 1280)
    for _ in range(2):
        visit.page.get_by_role("button", name="ECE", exact=True).press("Enter")
        assert column(visit.page, 6)[-2:] == ["", ""]
    visit.page.close()


def test_the_table_filters_by_keyboard_and_says_how_many(browser: Any, page_file: Path) -> None:
    visit = Visit(browser, page_file, 1280)
    field, status = visit.page.get_by_label("Show heads with"), visit.page.get_by_role("status")
    assert status.text_content() == "10 of 10 heads"
    field.focus()
    visit.page.keyboard.type("CONTROL")
    assert column(visit.page, 2) == ["words", "majority"]
    assert status.text_content() == "2 of 10 heads"
    visit.page.keyboard.type(" no such")
    assert status.text_content() == "0 of 10 heads"
    field.fill("")
    assert len(column(visit.page, 2)) == 10
    visit.page.close()


def test_without_scripts_the_table_is_just_a_table(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    table = page.locator("table[data-sorts]")
    assert table.locator("tbody tr").count() == 10
    assert table.locator("button").count() == 0
    assert page.locator(".filter").count() == 0
    context.close()


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
