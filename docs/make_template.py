"""Writes `pipeline/templates/dvc.yaml` from the project's own `dvc.yaml`: `python docs/make_template.py`.

A user's project has the package installed and not its sources, so the stages are the same without those dependencies,
and without the plots' own templates: those lie in `.dvc/`, which is `dvc init`'s to make.
"""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ilse.files import write_text

ROOT = Path(__file__).parent.parent
OUT = ROOT / "pipeline" / "templates" / "dvc.yaml"
SOURCES = ("finetune", "ilse", "inference", "pipeline", "trainer")
OWN_PLOTS = {path.stem for path in (ROOT / ".dvc" / "plots").glob("*.json")}
TOP = """# The stages of a project, made by 'ilse init': each is one subcommand. `dvc repro` runs what changed.
# DVC does not see a new version of ilse-cache: after one, `dvc repro --force`.
"""


def document() -> str:
    """The whole file."""
    yaml = YAML()
    yaml.width = 10_000
    stages = yaml.load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for stage in stages["stages"].values():
        deps = stage.get("do", stage).get("deps", [])
        for i in reversed(range(len(deps))):
            if _is_source(deps[i]):
                del deps[i]
        for plot in stage.get("do", stage).get("plots", []):
            for axes in plot.values():
                if axes.get("template") in OWN_PLOTS:
                    del axes["template"]
    with StringIO() as text:
        yaml.dump(stages, text)
        return TOP + text.getvalue().partition("\n")[2]


def _is_source(dependency: Any) -> bool:
    return str(dependency).split("/")[0] in SOURCES


if __name__ == "__main__":
    write_text(OUT, document())
