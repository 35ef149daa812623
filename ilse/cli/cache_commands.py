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
    say_next,
    scratch_option,
    texts_option,
)
from ilse.core.files import ownership as ours
from ilse.core.files.destinations import Destination, Source
from ilse.core.machine.memory import keep_freed_memory
from ilse.core.terminal import say, tell


@main.command()
@click.option("--data", help="Data set: a table or a folder.", type=click.Path(path_type=Path))
@click.option(
    "--model", help="Model: a Hugging Face folder, a GGUF file, or owner/name on the Hub (pinned to a commit)."
)
@click.option("--text-column", help="Column that holds the texts, if not 'text'.")
@click.option("--pair-column", "text_pair_column", help="Column that holds the second text of each pair.")
@click.option("--label-column", help="Column that holds the labels, if not 'label'.")
@click.option("--labels-column", help="Column that holds lists of labels, read instead of single labels.")
@click.option("--score-column", help="Column that holds scores, read instead of labels.")
def init(data: Path | None, model: str | None, **columns: str | None) -> None:
    """Start a project: write params.yaml and dvc.yaml.

    Both go into the current folder. A folder that already has one of them is refused.
    """
    from pipeline.stages.start import start

    written = start(Path(), data, model, {key: name for key, name in columns.items() if name})
    tell(f"wrote {', '.join(written)}")
    if data is None or model is None:
        say_next("set prepare.path and extract.model.path in params.yaml, or choose presets with 'ilse preset'")
    if model is not None and not Path(model).exists():
        say_next("ilse fetch model")
    say_next("ilse prepare, extract, train, control, evaluate, analyse, report; or all: dvc init && dvc repro")


@main.command()
@click.argument("names", nargs=-1)
@params_option
@click.option("--path", "place", help="Local folder to read instead of the Hub.")
@click.option("--revision", help="Commit of the Hub repository; the preset's own by default.")
def preset(names: tuple[str, ...], params: Path, place: str | None, revision: str | None) -> None:
    """Write presets into the parameter file, or list them.

    NAMES are presets such as tasks/banking77. Without NAMES, every preset is listed.
    """
    from pipeline.stages.presets import apply, presets

    width = max(map(len, presets()))
    found = [f"{name:{width}}  {one.about}" for name, one in presets().items()]
    tell("\n".join(apply(list(names), params, place, revision) if names else found))
    fetched = "'ilse prepare' for a task, 'ilse extract' for a model"
    if not names:
        say_next("ilse preset NAME")
    else:
        say_next(fetched if place else f"'ilse fetch' for each key of section 'fetch', then {fetched}")


@main.command()
@click.argument("artifact")
@params_option
@click.option("--out", help="Parent folder; ARTIFACT becomes a folder inside it.", **destination("folder", "data/raw"))
def fetch(artifact: str, params: Path, out: Path) -> None:
    """Fetch a data set or model that section 'fetch' pins.

    ARTIFACT is a key of section 'fetch'. The version, commit or checksum given there is checked.
    """
    from ilse.core.params import load_section
    from pipeline.stages.fetch import FetchParams
    from pipeline.stages.fetch import fetch as run

    tell(run(load_section(f"fetch.{artifact}", FetchParams, params).root, out / artifact))
    say_next("'ilse prepare' for a data set, 'ilse extract' for a model")


@main.command()
@params_option
@click.option("--out", help="Folder for the two tables and prepare.json.", **destination("folder", "data"))
@scratch_option
def prepare(params: Path, out: Path, scratch: Path) -> None:
    """Turn a data set into distinct texts and split examples."""
    from ilse.core.files.atomic import write_json
    from ilse.core.params import load_section
    from pipeline.dataset.counts import split_table
    from pipeline.stages.prepare import PrepareParams
    from pipeline.stages.prepare import prepare as run
    from pipeline.work.scratch import keep_reachable

    counts = run(load_section("prepare", PrepareParams, params), out)
    for note in counts.pop("notes"):
        tell(note)
    write_json(out / "prepare.json", counts)
    keep_reachable(scratch, out)
    tell("\n".join(split_table(counts)))
    say_next("ilse extract, or first 'ilse plan' for what it costs")


@main.command()
@params_option
@texts_option
@click.option("--model-config", type=click.Path(path_type=Path), help="Plan for this config.json, or its folder.")
@click.option("--parameters", help="Plan for a model of this size, such as 7B; needs --layers and --dim.")
@click.option("--layers", help="With --parameters: number of layers, which is the number of blocks plus one.")
@click.option("--dim", help="With --parameters: width of the hidden states.")
@click.option("--texts-count", help="With --model-config or --parameters: number of texts; 100M by default.")
@click.option("--tokens-per-text", help="With --model-config or --parameters: tokens per text; 128 by default.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def plan(params: Path, texts: Path, as_json: bool, **elsewhere: Any) -> None:
    """Estimate the disk, memory and time of an extraction.

    By default the estimate is for the local model and texts and comes from a few seconds of calibration. With
    --model-config or --parameters it is for any model, on a table of machines, and needs no weights.
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
    if not as_json:
        say_next("ilse extract")


@main.command()
@params_option
@click.option("--out", help="File for the model's name and checksum.", **destination("file", "data/model.json"))
@click.option("--section", help="Section of the parameter file.", default="extract", show_default=True)
def identify(params: Path, out: Path, section: str) -> None:
    """Record which model 'extract' names, by checksum."""
    from ilse.core.files.atomic import write_json
    from ilse.core.params import load_section
    from pipeline.config import ExtractParams
    from pipeline.stages.identify import identify as run

    write_json(out, run(load_section(section, ExtractParams, params)))
    say(f"wrote {out}")
    say_next("ilse extract" if section == "extract" else f"ilse extract --section {section}")


@main.command()
@params_option
@texts_option
@click.option(
    "--out",
    help="Cache to write: a folder or a URL.",
    type=Destination(ours.CACHE, str),
    default="data/cache.zarr",
    show_default=True,
)
@scratch_option
@click.option("--figures", help="File for the run's timings and sizes.", **destination("file", "data/extract.json"))
@click.option("--section", help="Section of the parameter file.", default="extract", show_default=True)
def extract(params: Path, texts: Path, out: str, scratch: Path, figures: Path, section: str) -> None:
    """Run the model once over all texts and cache every layer.

    What is cached is one pooled row per text and layer, and the token states if extract.token_states is set. A run
    that was stopped resumes when the same command is given again.
    """
    from ilse.core.files.atomic import write_json
    from ilse.core.params import load_section
    from pipeline.config import ExtractParams
    from pipeline.stages.extract import extract as run

    keep_freed_memory()
    write_json(figures, run(load_section(section, ExtractParams, params), texts, out, scratch))
    say_next("ilse train, or 'ilse inspect' to see what the cache holds" if section == "extract" else "ilse control")


@main.command()
@click.argument("cache", type=Source(str))
@click.argument("out", type=Destination(ours.CACHE))
@click.option("--layers", help="Layers to keep, counted from 0, with ranges: 0,6..12,-1; all by default.")
@click.option("--texts", type=Source(), help="Keep the texts that this table lists (text_id, pair_text_id).")
@click.option("--share", type=float, help="Keep this share of the texts, 0 to 1, drawn by their ids.")
@click.option("--storage-type", help="Type of the stored values; the type of CACHE by default.")
@click.option("--poolings", help="Poolings to keep, such as mean,last; all by default.")
@click.option("--tokens", is_flag=True, help="Keep the token states of these texts and layers too.")
@click.option(
    "--examples",
    "tables",
    type=(Source(), Destination("file")),
    metavar="FROM TO",
    help="Read the examples in FROM and write those of the kept texts to TO.",
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
    """Write a smaller cache: fewer layers, texts or bits.

    CACHE is a folder or a URL. The smaller cache goes to the folder OUT. The model is not needed.
    """
    from pipeline.stages.subset import Selection, examples_of
    from pipeline.stages.subset import subset as run

    several = {"layers": layers, "poolings": poolings}
    lists = {name: tuple(value.split(",")) if value else None for name, value in several.items()}
    tell(run(cache, out, Selection(**lists, texts=texts, share=share, storage_type=storage_type, tokens=tokens)))
    if tables is not None:
        tell(examples_of(out, *tables))
    say_next(f"ilse train --cache {out}" + (f" --examples {tables[1]}" if tables else ""))


@main.command()
@click.argument("cache", default="data/cache.zarr")
def inspect(cache: str) -> None:
    """Print a cache's spec, size, state and layer statistics.

    CACHE is a folder or a URL.
    """
    from pipeline.stages.inspect import UNFINISHED, describe

    about = describe(cache)
    tell(about)
    unfinished = UNFINISHED in about.split("\n", 1)[0]
    say_next("ilse extract" if unfinished else "'ilse verify' checks every byte, 'ilse layers' measures the layers")


@main.command()
@click.argument("cache", default="data/cache.zarr")
def verify(cache: str) -> None:
    """Check every byte of a cache and name what is damaged.

    CACHE is a folder or a URL. The exit code is 2 if anything is damaged.
    """
    from pipeline.stages.verify import verify as run

    tell(run(cache))
    say_next("ilse train")
