"""A second version of the demo's data under git and DVC: what is computed, what is pushed, and the way back.

    python -m benchmarks.versioning [--quick]

In a clone of this repository's last commit: version 1 is the headlines, version 2 appends 200 rows, first sentences of
articles. The last line is JSON: `rows` by version; texts `computed` and `reused`; old examples whose split and old rows
whose bytes are others in version 2; bytes that `dvc push` adds for the cache (`pushed`) beside those `allowed`, the new
rows' and two shards'; and the files that `git checkout` and `dvc checkout` do not bring back as they were.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from benchmarks.demo import demo_params, demo_texts
from benchmarks.faults.judge import Files, differences, files_of
from benchmarks.tiny import tiny_model
from ilse.core.files.table_files import read_parquet
from ilse.core.tables import EXAMPLES_FILE, LABEL, SOURCE_ROW, SPLIT, TEXT, TEXT_ID
from pipeline import store

A_LABEL = 40  # new rows of each of the five labels
Rows = list[tuple[str, str]]  # texts and their labels


def main() -> None:
    """Makes both versions and prints what the second one cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute: a tiny random model")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model = tiny_model(root / "tiny") if quick else demo_params().model.path
        project = Project(root / "project", Path(str(model)).resolve())
        print(json.dumps(figures(project, *headlines(root))))


def headlines(folder: Path) -> tuple[Rows, Rows]:
    """The headlines, and the first sentences below `A_LABEL` of them for each label."""
    texts = read_parquet(demo_texts(folder, whole=True))
    articles = read_parquet(folder / EXAMPLES_FILE).join(texts, on=TEXT_ID).sort(SOURCE_ROW)
    lines = [[line for line in text.splitlines() if line.strip()] for text in articles[TEXT]]
    old = [(parts[0], label) for parts, label in zip(lines, articles[LABEL], strict=True)]
    sentences = {re.split(r"(?<=[.!?])\s", parts[1])[0]: label for parts, (_, label) in zip(lines, old, strict=True)}
    new = pl.DataFrame(list(sentences.items()), schema=[TEXT, LABEL], orient="row")
    new = new.filter(~pl.col(TEXT).is_in([text for text, _ in old]))
    return old, new.group_by(LABEL, maintain_order=True).head(A_LABEL).select(TEXT, LABEL).rows()


def figures(project: Project, old: Rows, new: Rows) -> dict[str, Any]:
    """Goes to version 2 and back."""
    first = project.make("v1", old)
    before, examples = read_rows(project.cache), read_parquet(project.data / EXAMPLES_FILE)
    second = project.make("v2", [*old, *new])
    after, made = read_rows(project.cache), json.loads((project.data / "extract.json").read_text())
    splits = examples.join(read_parquet(project.data / EXAMPLES_FILE).unique(TEXT_ID), on=TEXT_ID, how="left")
    header = store.open_cache(project.cache).header
    row = header.bytes // (header.shards * header.shard_rows)
    return {
        "rows": [len(old), len(old) + len(new)],
        "computed": made["texts_computed"],
        "reused": made["texts_reused"],
        "other_split": int((splits[SPLIT] != splits[f"{SPLIT}_right"]).fill_null(True).sum()),
        "other_bytes": sum(after.get(name) != content for name, content in before.items()),
        "pushed": project.pushed["v2"],
        "allowed": made["texts_computed"] * row + 2 * header.shard_rows * row,
        "not_restored": {"v1": project.restored("v1", first), "v2": project.restored("v2", second)},
    }


def read_rows(place: Path) -> dict[str, bytes]:
    """Text → the stored bytes of all its layers."""
    cache = store.open_cache(place)
    values = cache.read(slice(0, cache.header.texts))
    return {name: row.tobytes() for name, row in zip(cache.text_ids(), values, strict=True)}


class Project:
    """A clone of this repository with a remote on the disk, where `data/news.csv` is the data set."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.data, self.cache = folder / "data", folder / "data" / "cache.zarr"
        self.pushed: dict[str, int] = {}
        self._folder, self._remote = folder, folder.with_name("remote")
        subprocess.run(["git", "clone", "-q", ".", str(folder)], check=True)
        self._run("dvc", "remote", "add", "-q", "-d", "disk", str(self._remote))
        sections = yaml.safe_load((folder / "params.yaml").read_text())
        sections["fetch"] = {"model": {"kind": "path", "path": str(model)}}
        sections["prepare"] |= {"path": "data/news.csv", "format": "csv"}
        inside = "data/raw/model" if model.is_dir() else f"data/raw/model/{model.name}"
        sections["extract"]["model"] = {"path": inside}
        sections["control_caches"] = {}
        (folder / "params.yaml").write_text(yaml.safe_dump(sections))

    def make(self, version: str, rows: Rows) -> Files:
        """Extracts, commits and pushes a version of the data; returns its files."""
        with (self.data / "news.csv").open("w", newline="") as file:
            csv.writer(file).writerows([(TEXT, LABEL), *rows])
        self._run("dvc", "repro", "extract")
        self._run("git", "add", "-A")
        self._run("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "-qm", version)
        self._run("git", "tag", version)
        there = sum(map(len, files_of(self._remote).values()))
        self._run("dvc", "push", "data/cache.zarr")
        self.pushed[version] = sum(map(len, files_of(self._remote).values())) - there
        self._run("dvc", "push")
        return files_of(self.data)

    def restored(self, version: str, expected: Files) -> list[str]:
        """The files of a version that are other ones after going there; none, if it is restored."""
        self._run("git", "checkout", "-q", version)
        self._run("dvc", "checkout", "-q", "--allow-missing")  # stages behind the extraction were never run
        return [name for name in differences(files_of(self.data), expected) if not name.startswith("scratch")]

    def _run(self, *command: str) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(self._folder), "DVC_NO_ANALYTICS": "1"}
        subprocess.run(command, cwd=self._folder, env=environment, stdout=sys.stderr, check=True)


if __name__ == "__main__":
    main()
