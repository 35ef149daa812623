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
ilse fetch banking77 && ilse fetch pythia-410m     # into data/raw/; `dvc repro` does this too
ilse prepare && ilse extract
```

A task replaces the section `prepare`, a model the value `extract.model`, each as a whole. Both add an entry to `fetch`
and remove the entry that only the old values used. Everything else in the file stays, including comments. A dot in a
model's name is `_` in its key: `ilse fetch pythia-1_4b`.

- **Without the Hub**: `ilse preset tasks/banking77 --path FOLDER` reads local files with the columns below; `ilse
  preset models/pythia-410m --path FOLDER` reads a local model folder or GGUF file.
- **Commits**: data sets are pinned to the commits in MTEB 2.26, and so is the one model it has. For the others,
  `ilse preset` asks the Hub for the latest commit of `main` and writes it into `params.yaml`; `--revision COMMIT` sets
  another one, for data sets too.
- **Test-only tasks** have `path: {test: …}`: their other splits are not read. Heads are trained on STSBenchmark and
  tested on them. DVC does not accept such a path as a dependency: list it in `dvc.yaml` by hand. All rows are kept.
  Many pairs of STS12-16 are also in STSBenchmark's training split, which was made from the same sources:
  `prepare.exclude_train_of` leaves those out ([Pairs](guides/pairs.md)).
- **MTOP**: only the English files are fetched; the folder `en` is the name that `datasets` gives to that configuration.

Data sets and models are subject to the terms of their publishers; each task's file says what MTEB states.
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
        f"`{commit[:12]}`" if commit else "latest when applied",
        ", ".join(f"`{name}`" for name in columns or values["fetch"]),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    write_text(OUT, document())
