"""Numbers as the page prints them."""

from __future__ import annotations

from typing import Any


def percent(share: float | None) -> str:
    """A share in per cent with one digit."""
    return "–" if share is None else f"{100 * share:.1f}\u00a0%"


def digits(share: float | None) -> str:
    """A share in per cent, without the sign."""
    return "–" if share is None else f"{100 * share:.1f}"


def points(points: float | None) -> str:
    """A difference in points, with its sign."""
    return "–" if points is None else f"{round(points, 1) + 0.0:+.1f}".replace("-", "−")


def seconds(seconds: float | int | None) -> str:
    """A time, in units that suit it."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}\u00a0h {minutes % 60}\u00a0min" if minutes >= 60 else f"{minutes}\u00a0min {rest}\u00a0s"


def millions(count: float) -> str:
    """A number of parameters in millions, or in billions."""
    return f"{count / 1e9:,.1f}\u00a0B" if count >= 1e9 else f"{count / 1e6:,.0f}\u00a0M"


def plain(value: Any) -> str:
    """Any figure: thousands apart, two decimals at most."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}".rstrip("0").rstrip(".")


def probability(p: float | None) -> str:
    """A p-value: `p = 0.012`, and `p < 0.001` below that."""
    if p is None:
        return "p not known"
    return "p\u00a0<\u00a00.001" if p < 0.001 else f"p\u00a0=\u00a0{p:.3f}"
