"""How Sphinx builds these pages: `make docs`. Strictly, and nothing is fetched, neither now nor by a reader's browser.

Furo brings its styles and scripts along and uses the system's fonts.
"""

from ilse import __version__

project = "ILSE Cache"
release = __version__
extensions = ["myst_parser", "sphinx_click"]
exclude_patterns = ["_build"]
myst_heading_anchors = 5
html_theme = "furo"
html_title = f"ILSE Cache {release}"
html_show_copyright = False
