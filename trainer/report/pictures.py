"""Every chart as PNG and SVG, in the light scheme, for papers and slides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vl_convert

from ilse.core.files.atomic import replacing_folder
from ilse.core.files.ownership import PICTURES
from trainer.report.evaluation import read_results
from trainer.report.page import drawing_of, vegalite
from trainer.report.result_files import facts_of, named_results
from trainer.report.theme import CONFIG, LIGHT, on_paper

WIDTH = 640
"""Of a picture's plot, in points; a PNG has twice as many pixels."""
SQUARE = {"calibration", "cka", "graph"}
"""Sections whose plots are as wide as they are high."""
PAPER: dict[str, Any] = on_paper(CONFIG) | {"background": LIGHT["paper"], "font": "sans-serif", "padding": 12}


def as_pictures(results: Path, facts: Mapping[str, Path], out: Path) -> Path:
    """Write `<section>-<number>.svg` and `.png` for every chart of the page to the folder `out`, replacing it.

    Takes and raises what `report` does.
    """
    read, figures = read_results(results), {stage: facts_of(path) for stage, path in facts.items()}
    with named_results(results):
        drawn = drawing_of(read, figures)
    with replacing_folder(out, PICTURES, "--figures") as folder:
        for section, charts in drawn.charts.items():
            for number, chart in enumerate(charts, start=1):
                _write(folder / f"{section}-{number}", chart.spec, chart.spec["height"] if section in SQUARE else WIDTH)
    return out


def _write(stem: Path, spec: dict[str, Any], width: int) -> None:
    fixed = on_paper(spec) | {"width": width}
    stem.with_suffix(".svg").write_text(
        vl_convert.vegalite_to_svg(fixed, vl_version=vegalite(), config=PAPER, allowed_base_urls=[]), encoding="utf-8"
    )
    stem.with_suffix(".png").write_bytes(
        vl_convert.vegalite_to_png(fixed, vl_version=vegalite(), config=PAPER, scale=2, allowed_base_urls=[])
    )
