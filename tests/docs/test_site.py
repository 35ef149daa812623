"""The site builds strictly, and asks the network for nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from sphinx.application import Sphinx

from ilse.cli import main
from tests.docs.conftest import DOCS, PAGES

# Sphinx, to its extensions.
pytestmark = pytest.mark.filterwarnings("ignore::sphinx.deprecation.RemovedInSphinx11Warning")
FETCHING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}
"""What a browser fetches without being asked."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` builds it: a warning is an error."""
    out, warnings = tmp_path_factory.mktemp("site"), StringIO()
    app = Sphinx(DOCS, DOCS, out, out / ".doctrees", "html", status=None, warning=warnings, exception_on_warning=False)
    app.build()
    assert warnings.getvalue() == ""
    assert app.statuscode == 0
    return out


class Fetched(HTMLParser):
    """The addresses that a page makes a browser fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in FETCHING and values.get("rel") not in ("canonical", "license"):
            self.addresses.append(values.get(FETCHING[tag]) or "")


def test_every_page_is_built(site: Path) -> None:
    assert {path.relative_to(DOCS).with_suffix(".html") for path in PAGES} <= {
        path.relative_to(site) for path in site.rglob("*.html")
    }


def test_no_page_fetches_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    fetched = [address for path in pages for address in Fetched(path.read_text(encoding="utf-8")).addresses]
    assert len(fetched) > 50
    assert not [address for address in fetched if re.match(r"(https?:)?//", address)]


def test_no_style_fetches_from_elsewhere(site: Path) -> None:
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles
    assert not [style for style in styles if re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style)]


def test_the_command_line_is_all_there(site: Path) -> None:
    text = (site / "command-line.html").read_text(encoding="utf-8")
    for name in main.commands:
        assert f'id="ilse-{name}"' in text
    assert 'id="cmdoption-ilse-init-text-column"' in text
    assert ".. option" not in text


def test_the_diagram_is_a_file_of_the_site(site: Path) -> None:
    assert 'src="_images/concepts.svg"' in (site / "concepts.html").read_text(encoding="utf-8")
    assert "<script" not in (site / "_images" / "concepts.svg").read_text(encoding="utf-8")
