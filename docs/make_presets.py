"""Writes `docs/presets.md` from `pipeline/configs`: `python docs/make_presets.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ilse.core.files.atomic import write_text
from pipeline.stages.presets import Preset, presets

OUT = Path(__file__).parent / "presets.md"
TOP = """# Presets

The tasks and models of the ILSE paper (arXiv 2603.22665), and some more models, by name. Written by
`docs/make_presets.py` from `pipeline/configs`.

<!-- not run: the Hub -->
```sh
ilse preset                                        # lists them
ilse preset tasks/banking77 models/pythia-410m     # writes them into params.yaml, and says what changed
ilse fetch banking77 && ilse fetch pythia-410m     # into data/raw/; `dvc repro` does it by itself
ilse prepare && ilse extract
```

A task replaces the section `prepare`, a model the value `extract.model`, each as a whole; both bring an entry of
`fetch`, and the entry that only the old values read goes. All else in the file stays, comments too. A dot in a model's
name is `_` in its key: `ilse fetch pythia-1_4b`.

- **Without the Hub**: `ilse preset tasks/banking77 --path FOLDER` reads files that are here already, of the columns
  below; `ilse preset models/pythia-410m --path FOLDER` a model's folder or GGUF file.
- **Commits**: data sets are pinned to the commits that MTEB 2.26 names, as is the one model it has. For the others
  `ilse preset` asks the Hub which commit `main` is at and writes it into `params.yaml`; `--revision COMMIT` takes
  another, for data sets too.
- **Tasks to test on** have `path: {test: …}`: their other splits are not read. Heads are trained on STSBenchmark and
  tested on them. DVC takes no such path for a dependency: list it in `dvc.yaml` by hand. All rows are kept. Many pairs
  of STS12-16 stand in STSBenchmark's training split too, which was made from the same sources:
  `prepare.exclude_train_of` leaves those out ([Pairs](guides/pairs.md)).
- **MTOP**: the files of English alone are fetched; the folder `en` is how `datasets` writes that configuration.

Data sets and models come under the terms of those who publish them; each task's file says what MTEB states.
"""


def document() -> str:
    """The whole file."""
    return "\n".join([TOP, *_table("Tasks", "tasks", "columns"), "", *_table("Models", "models", "key"), ""])


def _table(title: str, kind: str, last: str) -> Iterator[str]:
    yield f"## {title}\n\n| preset | what it is | Hub repository | commit | {last} |\n|---|---|---|---|---|"
    for preset in presets().values():
        if preset.name.startswith(f"{kind}/"):
            yield _row(preset)


def _row(preset: Preset) -> str:
    repository, commit = preset.artifact["repo_id"], preset.artifact.get("revision")
    values = preset.values
    columns = [value for key, value in values.get("prepare", {}).items() if key.endswith("_column")]
    cells = (
        f"`{preset.name}`",
        preset.about.removesuffix("."),
        f"`{repository}`",
        f"`{commit[:12]}`" if commit else "asked when it is applied",
        ", ".join(f"`{name}`" for name in columns or values["fetch"]),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    write_text(OUT, document())
