"""Commands that lead to a cache and look after it.

Imports are lazy, so that each command needs its own extra alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ilse.cli.group import (
    destination,
    main,
    params_option,
    scratch_option,
    texts_option,
)
from ilse.core.files import ownership as ours
from ilse.core.files.destinations import Destination, Source
from ilse.core.machine.memory import keep_freed_memory
from ilse.core.terminal import tell


@main.command()
@click.option("--data", help="The data set: a table or a folder.", type=click.Path(path_type=Path))
@click.option(
    "--model", help="A folder in Hugging Face's layout, a GGUF file, or owner/name of the Hub (pinned to its commit)."
)
@click.option("--text-column", help="Column of the texts, if not 'text'.")
@click.option("--pair-column", "text_pair_column", help="Column of an example's second text.")
@click.option("--label-column", help="Column of the labels, if not 'label'.")
@click.option("--labels-column", help="Column of label lists, read instead of labels.")
@click.option("--score-column", help="Column of the scores, read instead of labels.")
def init(data: Path | None, model: str | None, **columns: str | None) -> None:
    """Start a project in this folder: write params.yaml and dvc.yaml, and replace neither."""
    from pipeline.stages.start import start

    written = start(Path(), data, model, {key: name for key, name in columns.items() if name})
    tell(f"wrote {', '.join(written)}")
    if data is None or model is None:
        tell("next: fill in prepare.path and extract.model.path in params.yaml, or 'ilse preset'")
    if model is not None and not Path(model).exists():
        tell("next: ilse fetch model")
    tell("next: ilse prepare, extract, train, control, analyse, evaluate, report; or all: dvc init && dvc repro")


@main.command()
@click.argument("names", nargs=-1)
@params_option
@click.option("--path", "place", help="A folder of this machine to read, and not the Hub.")
@click.option("--revision", help="The commit of the Hub's repository.")
def preset(names: tuple[str, ...], params: Path, place: str | None, revision: str | None) -> None:
    """Write the presets NAMES, such as tasks/banking77, into the parameter file; without NAMES, list them."""
    from pipeline.stages.presets import apply, presets

    width = max(map(len, presets()))
    found = [f"{name:{width}}  {one.about}" for name, one in presets().items()]
    tell("\n".join(apply(list(names), params, place, revision) if names else found))


@main.command()
@click.argument("artifact")
@params_option
@click.option("--out", help="The folder; the artifact gets one of its own inside.", **destination("folder", "data/raw"))
def fetch(artifact: str, params: Path, out: Path) -> None:
    """Fetch ARTIFACT (a key of section 'fetch') by its pinned reference."""
    from ilse.core.params import load_section
    from pipeline.stages.fetch import FetchParams
    from pipeline.stages.fetch import fetch as run

    tell(run(load_section(f"fetch.{artifact}", FetchParams, params).root, out / artifact))


@main.command()
@params_option
@click.option("--out", help="The folder of the two tables and of prepare.json.", **destination("folder", "data"))
@scratch_option
def prepare(params: Path, out: Path, scratch: Path) -> None:
    """Turn a data set into distinct texts and examples with splits."""
    from ilse.core.files.atomic import write_json
    from ilse.core.params import load_section
    from pipeline.stages.prepare import PrepareParams
    from pipeline.stages.prepare import prepare as run
    from pipeline.work.scratch import keep_reachable

    counts = run(load_section("prepare", PrepareParams, params), out)
    for note in counts.pop("notes"):
        tell(note)
    write_json(out / "prepare.json", counts)
    keep_reachable(scratch, out)


@main.command()
@params_option
@texts_option
@click.option("--model-config", type=click.Path(path_type=Path), help="Plan for this config.json, or its folder.")
@click.option("--parameters", help="Plan for a model of so many parameters (7B), with --layers and --dim.")
@click.option("--layers", help="Layers of such a model: its blocks and one.")
@click.option("--dim", help="Width of such a model.")
@click.option("--texts-count", help="Texts of a plan for another model; 100M without it.")
@click.option("--tokens-per-text", help="Tokens of each of them; 128 without it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(params: Path, texts: Path, as_json: bool, **elsewhere: Any) -> None:
    """Say what an extraction will cost: disk, memory, time.

    For the model and texts that are here, from a few seconds of calibration; or with --model-config or --parameters
    for any model, on a table of machines and without its weights.
    """
    import json

    if any(value is not None for value in elsewhere.values()):
        from pipeline.forecast.elsewhere import quote

        found: Any = quote(**elsewhere)
    else:
        from ilse.core.params import load_section
        from pipeline.config import ExtractParams
        from pipeline.stages.plan import plan as run

        keep_freed_memory()
        found = run(load_section("extract", ExtractParams, params), texts)
    tell(json.dumps(found.document(), indent=2) if as_json else "\n".join(found.lines()))


@main.command()
@params_option
@click.option("--out", help="Where the model's name and checksum go.", **destination("file", "data/model.json"))
@click.option("--section", help="Of the parameter file.", default="extract", show_default=True)
def identify(params: Path, out: Path, section: str) -> None:
    """Write down which model section 'extract' names, by the checksum of its files."""
    from ilse.core.files.atomic import write_json
    from ilse.core.params import load_section
    from pipeline.config import ExtractParams
    from pipeline.stages.identify import identify as run

    write_json(out, run(load_section(section, ExtractParams, params)))


@main.command()
@params_option
@texts_option
@click.option(
    "--out",
    help="The activation cache, a folder or a URL.",
    type=Destination(ours.CACHE, str),
    default="data/cache.zarr",
    show_default=True,
)
@scratch_option
@click.option("--figures", help="Where the run's figures go.", **destination("file", "data/extract.json"))
@click.option("--section", help="The section with its parameters.", default="extract", show_default=True)
def extract(params: Path, texts: Path, out: str, scratch: Path, figures: Path, section: str) -> None:
    """Run the model over all texts and cache every layer's pooled row."""
    from ilse.core.files.atomic import write_json
    from ilse.core.params import load_section
    from pipeline.config import ExtractParams
    from pipeline.stages.extract import extract as run

    keep_freed_memory()
    write_json(figures, run(load_section(section, ExtractParams, params), texts, out, scratch))


@main.command()
@click.argument("cache", type=Source(str))
@click.argument("out", type=Destination(ours.CACHE))
@click.option("--layers", help="Numbers from 0 and ranges, such as 0,6..12,-1; all without it.")
@click.option("--texts", type=Source(), help="A table whose texts (text_id, pair_text_id) are kept.")
@click.option("--share", type=float, help="Keep this share of the texts, 0 to 1, drawn by their ids.")
@click.option("--storage-type", help="Type of the stored values; that of CACHE without it.")
@click.option("--poolings", help="Names, such as mean,last; all without it.")
@click.option("--tokens", is_flag=True, help="Keep the token states of these texts and layers too.")
@click.option(
    "--examples",
    "tables",
    type=(Source(), Destination("file")),
    help="FROM TO: keep the examples of these texts.",
)
def subset(
    cache: str,
    out: Path,
    layers: str | None,
    texts: Path | None,
    share: float | None,
    storage_type: str | None,
    poolings: str | None,
    tokens: bool,
    tables: tuple[Path, Path] | None,
) -> None:
    """Write a smaller cache to the folder OUT: some layers or texts of CACHE, a folder or a URL, or another type."""
    from pipeline.stages.subset import Selection, examples_of
    from pipeline.stages.subset import subset as run

    several = {"layers": layers, "poolings": poolings}
    lists = {name: tuple(value.split(",")) if value else None for name, value in several.items()}
    tell(run(cache, out, Selection(**lists, texts=texts, share=share, storage_type=storage_type, tokens=tokens)))
    if tables is not None:
        tell(examples_of(out, *tables))


@main.command()
@click.argument("cache", default="data/cache.zarr")
def inspect(cache: str) -> None:
    """Print what CACHE is: spec, size, completeness and each layer's statistics."""
    from pipeline.stages.inspect import describe

    tell(describe(cache))


@main.command()
@click.argument("cache", default="data/cache.zarr")
def verify(cache: str) -> None:
    """Read every byte of CACHE and name what is damaged; exit code 2 when anything is."""
    from pipeline.stages.verify import verify as run

    tell(run(cache))
