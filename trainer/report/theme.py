"""The page's colours: CSS variables, so that everything drawn follows the reader's light or dark scheme, and paper."""

from __future__ import annotations

from typing import Any

LIGHT = {
    "paper": "#ffffff", "ink": "#14181f", "muted": "#59636f", "rule": "#dfe3e8", "wash": "#f3f6f7",
    "accent": "#0b6b73", "on-accent": "#ffffff", "band": "rgb(11 107 115 / .11)", "warm": "#a4480f",
}  # fmt: skip
DARK = {
    "paper": "#11151a", "ink": "#e7eaee", "muted": "#9aa5b1", "rule": "#2b323b", "wash": "#1a2027",
    "accent": "#4fc0bd", "on-accent": "#08191b", "band": "rgb(79 192 189 / .15)", "warm": "#f0a36b",
}  # fmt: skip
ACCENT, MUTED, INK, BAND, RULE, WARM, ON_ACCENT, WASH, PAPER = (
    f"var(--{name})" for name in ("accent", "muted", "ink", "band", "rule", "warm", "on-accent", "wash", "paper")
)

CONFIG = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": "transparent"},
    "axis": {
        "labelColor": MUTED, "titleColor": MUTED, "gridColor": RULE, "tickColor": RULE,
        "domain": False, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 130,
    },
    "axisXQuantitative": {"labelFlush": False},
    "text": {"fontSize": 12},
    "legend": {
        "labelColor": MUTED, "titleColor": MUTED, "labelFontSize": 12, "titleFontSize": 12,
        "titleFontWeight": "normal", "labelLimit": 130,
    },
}  # fmt: skip
"""Vega-Lite configuration of every chart."""


def css(colours: dict[str, str]) -> str:
    """The colours as declarations of CSS variables."""
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def on_paper(spec: Any) -> Any:
    """A specification with the light scheme's colours in place of variables, for pictures that have no page."""
    if isinstance(spec, dict):
        return {key: on_paper(value) for key, value in spec.items()}
    if isinstance(spec, list):
        return [on_paper(value) for value in spec]
    # A whole string alone: a label may well hold the letters of a variable.
    name = spec[6:-1] if isinstance(spec, str) and spec.startswith("var(--") else ""
    return LIGHT.get(name, spec)
