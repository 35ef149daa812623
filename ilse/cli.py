"""The command line: a subcommand a stage. Imports are lazy, so that each command needs its own extra alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ilse import __version__, ours
from ilse.destinations import Destination, Kind, Source, require_writable
from ilse.ending import Commands
from ilse.errors import UserError
from ilse.files import require_ours
from ilse.memory import OF_BATCHES, keep_freed_memory
from ilse.spinning import spin_briefly
from ilse.terminal import show_traceback, tell

_FORMATS = ["lines", "csv", "tsv", "jsonl", "parquet", "folder"]


def _path(default: str) -> dict[str, Any]:
    return {"type": click.Path(path_type=Path), "default": default, "show_default": True}


def _read(default: str, made: type = Path) -> dict[str, Any]:
    return {"type": Source(made), "default": default, "show_default": True}


def _made(kind: Kind, default: str) -> dict[str, Any]:
    return {"type": Destination(kind), "default": default, "show_default": True}


_params = click.option("--params", help="The parameter file.", **_read("params.yaml"))
_texts = click.option("--texts", help="The table of distinct texts.", **_read("data/texts.parquet"))
_cache = click.option("--cache", help="The activation cache, a folder or a URL.", **_read("data/cache.zarr", str))
_caches = click.option(
    "--cache",
    "caches",
    multiple=True,
    type=Source(str),
    default=["data/cache.zarr"],
    show_default="train.caches, or data/cache.zarr",
    help="The activation cache, a folder or a URL; once for each of several models over the same texts.",
)
_examples = click.option("--examples", help="The table of examples.", **_read("data/examples.parquet"))
_scratch = click.option(
    "--scratch", help="Where unfinished work is kept, on the same disk.", **_made("folder", "data/scratch")
)
_models = click.option("--models", help="The folder of trained heads.", **_path("models"))
_results = click.option("--results", help="The folder of tables and figures.", **_path("results"))
# The same for the commands that write into them.
_models_made = click.option("--models", help="The folder of trained heads.", **_made("folder", "models"))
_results_made = click.option("--results", help="The folder of tables and figures.", **_made("folder", "results"))


def _places(named: tuple[str, ...], configured: list[str] | None) -> list[str]:
    """The caches that `--cache` names, or those of `train.caches`, or the default one."""
    given = click.get_current_context().get_parameter_source("caches") is not ParameterSource.DEFAULT
    return list(named) if given or not configured else configured


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ilse")
def main() -> None:
    """Cache every layer of a frozen language model once, then train heads over all layers anywhere."""
    sys.excepthook = show_traceback
    spin_briefly()  # before a subcommand imports torch


@main.command()
@click.option("--data", help="The data set: a table or a folder.", type=click.Path(path_type=Path))
@click.option(
    "--model", help="The model: a folder in Hugging Face's layout or a GGUF file.", type=click.Path(path_type=Path)
)
@click.option("--text-column", help="Column of the texts, if not 'text'.")
@click.option("--pair-column", "text_pair_column", help="Column of an example's second text.")
@click.option("--label-column", help="Column of the labels, if not 'label'.")
@click.option("--labels-column", help="Column of label lists, read instead of labels.")
@click.option("--score-column", help="Column of the scores, read instead of labels.")
def init(data: Path | None, model: Path | None, **columns: str | None) -> None:
    """Start a project in this folder: write params.yaml and dvc.yaml, and replace neither."""
    from pipeline.start import start

    written = start(Path(), data, model, {key: name for key, name in columns.items() if name})
    tell(f"wrote {', '.join(written)}")
    if data is None or model is None:
        tell("next: fill in prepare.path and extract.model.path in params.yaml, or 'ilse preset'")
    tell("next: ilse prepare, extract, train, control, analyse, evaluate, report; or all: dvc init && dvc repro")


@main.command()
@click.argument("names", nargs=-1)
@_params
@click.option("--path", "place", help="A folder of this machine to read, and not the Hub.")
@click.option("--revision", help="The commit of the Hub's repository.")
def preset(names: tuple[str, ...], params: Path, place: str | None, revision: str | None) -> None:
    """Write the presets NAMES, such as tasks/banking77, into the parameter file; without NAMES, list them."""
    from pipeline.presets import apply, presets

    width = max(map(len, presets()))
    found = [f"{name:{width}}  {one.about}" for name, one in presets().items()]
    tell("\n".join(apply(list(names), params, place, revision) if names else found))


@main.command()
@click.argument("artifact")
@_params
@click.option("--out", help="The folder; the artifact gets one of its own inside.", **_made("folder", "data/raw"))
def fetch(artifact: str, params: Path, out: Path) -> None:
    """Fetch ARTIFACT (a key of section 'fetch') by its pinned reference."""
    from ilse.params import load_section
    from pipeline.fetch import FetchParams
    from pipeline.fetch import fetch as run

    tell(run(load_section(f"fetch.{artifact}", FetchParams, params).root, out / artifact))


@main.command()
@_params
@click.option("--out", help="The folder of the two tables and of prepare.json.", **_made("folder", "data"))
@_scratch
def prepare(params: Path, out: Path, scratch: Path) -> None:
    """Turn a data set into distinct texts and examples with splits."""
    from ilse.files import write_json
    from ilse.params import load_section
    from pipeline.prepare import PrepareParams
    from pipeline.prepare import prepare as run
    from pipeline.work.scratch import keep_reachable

    counts = run(load_section("prepare", PrepareParams, params), out)
    for note in counts.pop("notes"):
        tell(note)
    write_json(out / "prepare.json", counts)
    keep_reachable(scratch, out)


@main.command()
@_params
@_texts
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
        from ilse.params import load_section
        from pipeline.config import ExtractParams
        from pipeline.plan import plan as run

        keep_freed_memory()
        found = run(load_section("extract", ExtractParams, params), texts)
    tell(json.dumps(found.document(), indent=2) if as_json else "\n".join(found.lines()))


@main.command()
@_params
@click.option("--out", help="Where the model's name and checksum go.", **_made("file", "data/model.json"))
@click.option("--section", help="Of the parameter file.", default="extract", show_default=True)
def identify(params: Path, out: Path, section: str) -> None:
    """Write down which model section 'extract' names, by the checksum of its files."""
    from ilse.files import write_json
    from ilse.params import load_section
    from pipeline.config import ExtractParams
    from pipeline.identify import identify as run

    write_json(out, run(load_section(section, ExtractParams, params)))


@main.command()
@_params
@_texts
@click.option(
    "--out",
    help="The activation cache, a folder or a URL.",
    type=Destination(ours.CACHE, str),
    default="data/cache.zarr",
    show_default=True,
)
@_scratch
@click.option("--figures", help="Where the run's figures go.", **_made("file", "data/extract.json"))
@click.option("--section", help="The section with its parameters.", default="extract", show_default=True)
def extract(params: Path, texts: Path, out: str, scratch: Path, figures: Path, section: str) -> None:
    """Run the model over all texts and cache every layer's pooled row."""
    from ilse.files import write_json
    from ilse.params import load_section
    from pipeline.config import ExtractParams
    from pipeline.extract import extract as run

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
    from pipeline.subset import Selection, examples_of
    from pipeline.subset import subset as run

    several = {"layers": layers, "poolings": poolings}
    lists = {name: tuple(value.split(",")) if value else None for name, value in several.items()}
    tell(run(cache, out, Selection(**lists, texts=texts, share=share, storage_type=storage_type, tokens=tokens)))
    if tables is not None:
        tell(examples_of(out, *tables))


@main.command()
@click.argument("heads", nargs=-1)
@_params
@_caches
@_examples
@_models_made
@_results_made
@click.option("--minutes", type=float, help="Of the head 'auto': time to try others; else train.options.auto.minutes.")
def train(
    heads: tuple[str, ...],
    params: Path,
    caches: tuple[str, ...],
    examples: Path,
    models: Path,
    results: Path,
    minutes: float | None,
) -> None:
    """Train HEADS (all of train.heads) with several seeds, from the cache alone.

    The head 'auto' tries many, with one seed, within some minutes, and is the best of them on validation.
    """
    from ilse.params import load_section
    from trainer.config import AUTO, TrainParams

    # Before Lightning is loaded, which takes seconds: a mistyped key is said at once.
    section = load_section("train", TrainParams, params)
    chosen = heads or section.heads
    if minutes is not None:
        section = section.with_minutes(minutes, chosen)
    from trainer.train import train as run

    keep_freed_memory(OF_BATCHES)
    places = _places(caches, section.caches)
    for head in chosen:  # before the first is trained
        require_ours(models / head, ours.HEADS, "--models")
    for head in chosen:
        if head == AUTO:
            from trainer.auto import train_auto

            train_auto(section, places, examples, models, results)
        else:
            run(section, head, places, examples, models, results)


@main.command()
@click.argument("names", nargs=-1)
@_params
@_caches
@_examples
@_texts
@_models_made
@_results_made
def control(
    names: tuple[str, ...],
    params: Path,
    caches: tuple[str, ...],
    examples: Path,
    texts: Path,
    models: Path,
    results: Path,
) -> None:
    """Fit controls NAMES (all of section 'controls'): what a head's figure is to be compared with."""
    from ilse.params import load_section
    from trainer.config import TrainParams
    from trainer.controls.config import ControlParams

    section, training = load_section("controls", ControlParams, params), load_section("train", TrainParams, params)
    from trainer.control import control as run

    chosen = names or [*section.names, *section.caches]
    places = _places(caches, training.caches)
    for name in chosen:  # before the first is fitted
        require_ours(models / name, ours.HEADS, "--models")
    for name in chosen:
        run(section, training, name, places, examples, texts, models, results)


@main.command()
@click.argument("heads", nargs=-1)
@_params
@_caches
@_examples
@_results_made
@click.option("--apply", is_flag=True, help="Write what was found into the parameter file.")
def tune(
    heads: tuple[str, ...], params: Path, caches: tuple[str, ...], examples: Path, results: Path, apply: bool
) -> None:
    """Search options and recipe of HEADS (all of train.heads), with the same number of trials for each."""
    from ilse.edit import set_values
    from ilse.params import load_section
    from trainer.config import AUTO, TrainParams
    from trainer.space import TuneParams, section_of

    tuning, train = load_section("tune", TuneParams, params), load_section("train", TrainParams, params)
    if apply:
        require_writable(params, "file", "--params")
    from trainer.tune import tune as run

    keep_freed_memory(OF_BATCHES)
    places = _places(caches, train.caches)
    for head in heads or [head for head in train.heads if head != AUTO]:  # which searches on its own
        tuned = run(tuning, train, head, places, examples, results)
        tell(tuned.line())
        if apply:
            set_values(params, f"train.options.{head}", section_of(head, tuned.values))


@main.command()
@_params
@_cache
@_texts
@_examples
@_models_made
@_results_made
def lora(params: Path, cache: str, texts: Path, examples: Path, models: Path, results: Path) -> None:
    """Fine-tune the model itself on the same examples, to compare heads with."""
    from finetune.config import LoraParams
    from ilse.params import load_section
    from pipeline.config import ExtractParams
    from trainer.config import TrainParams

    # Before transformers is loaded, as for train.
    tuning, extract = load_section("lora", LoraParams, params), load_section("extract", ExtractParams, params)
    train = load_section("train", TrainParams, params)
    require_ours(models / "lora", ours.HEADS, "--models")
    from finetune.lora import lora as run

    keep_freed_memory()
    run(tuning, extract, train, cache, texts, examples, models, results)


@main.command()
@_params
@_caches
@_examples
@_models
@_results_made
def analyse(params: Path, caches: tuple[str, ...], examples: Path, models: Path, results: Path) -> None:
    """Say what the layers did in the trained heads, on the validation split."""
    from ilse.params import load_section
    from trainer.config import TrainParams

    section = load_section("train", TrainParams, params)
    from trainer.analyse import analyse as run

    keep_freed_memory(OF_BATCHES)
    run(section, _places(caches, section.caches), examples, models, results)


@main.command()
@_params
@_caches
@_examples
@_models
@_results_made
def evaluate(params: Path, caches: tuple[str, ...], examples: Path, models: Path, results: Path) -> None:
    """Score heads and controls on the test split and write the leaderboard."""
    from finetune.config import LoraParams
    from ilse.params import load_section
    from trainer.config import TrainParams
    from trainer.controls.config import ControlParams
    from trainer.evaluate import evaluate as run

    train, controls = load_section("train", TrainParams, params), load_section("controls", ControlParams, params)
    names = [*train.heads, *controls.all_names, *load_section("lora", LoraParams, params).run]
    drawn = train.shots is not None or train.share is not None
    run(names, _places(caches, train.caches), examples, models, results, train.memory_budget, controls.baseline, drawn)
    tell((results / "leaderboard.txt").read_text(encoding="utf-8"), end="")


@main.command()
@click.argument("head", type=Source())
@click.option("--input", "source", help="File, folder of text files, or -.", **_read("-", str))
@click.option("--out", help="A .csv, .jsonl or .parquet file; else CSV to the screen.", type=Destination("file"))
@click.option("--format", "read_as", type=click.Choice(_FORMATS), help="Of the input; else by its name, or lines.")
@click.option("--text-column", "text", help="Column of the texts, in tables.", default="text", show_default=True)
@click.option("--text-pair-column", "pair", help="Column of the second texts of pairs; text_pair without it.")
@click.option("--id-column", "id", help="A column that is handed on to the output as 'id'.")
@click.option(
    "--use", type=click.Choice(["whole", "first_line"]), default="whole", show_default=True, help="Of a text."
)
@click.option("--encoding", help="Encoding of text files.", default="utf-8", show_default=True)
@click.option("--delimiter", help="Of CSV and TSV, one character; else a comma, in TSV a tab.")
@click.option(
    "--quote-char",
    help="Of CSV and TSV, one character; 'none' where quotes are ordinary characters.",
    default="auto",
    show_default=True,
)
@click.option("--top-k", help="So many of the likeliest labels.", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--model",
    "models",
    multiple=True,
    type=Source(),
    help="The head's model; else that of section 'extract'. Of a head over several caches: one for each, in order.",
)
@click.option(
    "--device", help="Of the model.", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option("--threads", help="CPU threads; 0 for all cores.", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--why",
    type=Destination("file"),
    help="Also write an HTML page that shows what each word adds in each layer, for the first 100 texts. The head has "
    "to read tokens.",
)
@_params
def predict(
    head: Path,
    source: str,
    out: Path | None,
    read_as: Any,
    top_k: int,
    models: tuple[Path, ...],
    params: Path,
    device: str,
    threads: int,
    why: Path | None,
    **fields: Any,
) -> None:
    """Predict new texts with HEAD, a folder such as models/cayley/seed-0, and the model it was trained over.

    A run into --out that is killed goes on when the same command is given again.
    """
    from inference.command import predict as run
    from inference.inputs import Fields

    keep_freed_memory()
    run(head, source, out, read_as, Fields(**fields), top_k, models, params, device, threads, why)


@main.command()
@click.argument("head", type=Source())
@_examples
@_texts
@_results_made
@click.option("--model", type=Source(), help="The head's model; else that of section 'extract'.")
@click.option(
    "--device", help="Of the model.", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option("--threads", help="CPU threads; 0 for all cores.", type=click.IntRange(0), default=0, show_default=True)
@_params
def why(
    head: Path, examples: Path, texts: Path, results: Path, model: Path | None, params: Path, device: str, threads: int
) -> None:
    """Show what each word adds to a head's answers in each layer, for some validation examples.

    HEAD is a folder such as models/weighted/seed-0, of a head that reads tokens. Writes why.json to the results, which
    'ilse report' then shows.
    """
    from inference.why_examples import explain_examples as run

    keep_freed_memory()
    tell(run(head, examples, texts, results, model, params, device, threads))


@main.command()
@click.argument("head", type=Source())
@click.argument("repository")
@_results
@click.option("--dry-run", is_flag=True, help="Show the files and the card, and send nothing.")
@click.option("--private", is_flag=True, help="Where the repository is made: for its owner's eyes alone.")
def push(head: Path, repository: str, results: Path, dry_run: bool, private: bool) -> None:
    """Push HEAD, a folder such as models/cayley/seed-0, to REPOSITORY (owner/name) on the Hugging Face Hub.

    With a model card from the head and, where --results has its test figures, from those. HF_TOKEN says who pushes.
    """
    from inference.hub import push as run

    tell("\n".join(run(head, repository, results, dry_run, private)))


@main.command()
@click.argument("repository")
@click.argument("out", type=Destination(ours.PULLED))
@click.option("--revision", help="A commit, branch or tag; the newest without it.")
def pull(repository: str, out: Path, revision: str | None) -> None:
    """Pull the head in REPOSITORY (owner/name) of the Hugging Face Hub into the folder OUT, and check it."""
    from inference.hub import pull as run

    tell(run(repository, out, revision))


@main.command()
@click.argument("head", type=Source())
@click.option("--to", "target", type=click.Choice(["torch", "onnx", "sentence-transformer"]), required=True)
@click.option("--out", help="The export's folder, which is replaced.", type=Destination(ours.EXPORT), required=True)
@click.option("--model", type=Source(), help="For sentence-transformer: the model, as in predict.")
@_params
def export(head: Path, target: Any, out: Path, model: Path | None, params: Path) -> None:
    """Write HEAD for other programs: alone as torch.export or ONNX, or with its model as a SentenceTransformer."""
    if target == "sentence-transformer":
        from inference.sentence_transformer import export_folder

        export_folder(head, out, model, params)
        return
    from trainer.export import export_head

    outputs = export_head(head, out, target)["outputs"]
    tell(f"{out}: {', '.join(f'{name} {shape}' for name, shape in outputs.items())}")


@main.command()
@_results
@click.option("--data", help="The folder of prepare.json and extract.json.", **_path("data"))
@click.option("--out", help="The report.", **_made("file", "results/report.html"))
@click.option("--texts", type=Source(), help="The table of texts: the report then shows examples.")
@click.option("--markdown", type=Destination("file"), help="A short report too, for a pull request.")
@click.option("--figures", type=Destination(ours.PICTURES), help="A folder of every chart too, as PNG and SVG.")
def report(
    results: Path, data: Path, out: Path, texts: Path | None, markdown: Path | None, figures: Path | None
) -> None:
    """Write the report, one self-contained HTML file."""
    from trainer.report import as_markdown, as_pictures
    from trainer.report import report as run

    facts = {stage: data / f"{stage}.json" for stage in ("prepare", "extract")}
    tell(run(results, facts, out, texts))
    if markdown is not None:
        tell(as_markdown(results, markdown))
    if figures is not None:
        tell(as_pictures(results, facts, figures))


@main.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--out", help="The page.", **_made("file", "compare.html"))
def compare(runs: tuple[str, ...], out: Path) -> None:
    """Compare evaluations: RUNS are their results folders, each as FOLDER or NAME=FOLDER."""
    from trainer.report import compare as run

    tell(run(runs, out))


@main.command()
@click.argument("cache", default="data/cache.zarr")
def inspect(cache: str) -> None:
    """Print what CACHE is: spec, size, completeness and each layer's statistics."""
    from pipeline.inspect import describe

    tell(describe(cache))


@main.command()
@_cache
@click.option("--examples", type=Source(), help="A table of examples: separation and probes of its labels too.")
@click.option(
    "--out",
    type=Destination("file"),
    help="The table, .csv, .jsonl or .parquet.",
    show_default="results/layer_metrics.csv; with --compare results/drift.csv",
)
@click.option(
    "--variant",
    type=click.Choice(["ours", "published"]),
    default="ours",
    show_default=True,
    help="Entropies and curvature; or as the code of arXiv 2502.02013 has them.",
)
@click.option("--alpha", type=float, default=1.0, show_default=True, help="Order of the entropies.")
@click.option(
    "--normalise",
    type=click.Choice(["raw", "log_n", "log_d", "log_n_log_d", "max"]),
    default="raw",
    show_default=True,
    help="Entropies in nats, or over a logarithm of texts or tokens (n), width (d), both, or the smaller (max).",
)
@click.option("--pooling", default="mean", show_default=True, help="Which rows are read.")
@click.option(
    "--texts", type=click.IntRange(1), default=1000, show_default=True, help="Of the sample, for what is no sum."
)
@click.option("--memory-budget", type=float, help="GB for sums and samples; 0.27 without it.")
@click.option(
    "--views",
    multiple=True,
    type=Source(str),
    help="A cache of the same texts with noise (extract.noise), once for each, at least two: InfoNCE, LiDAR, DiME.",
)
@click.option("--suggest", is_flag=True, help="Say which layers to keep, as lines for params.yaml; with --examples.")
@click.option(
    "--compare",
    type=(Source(str), Source(str)),
    help="Compare two caches of the same texts instead, A and B.",
)
@click.option("--neighbours", type=click.IntRange(1), help="With --compare: neighbours of each text; 10 by default.")
@click.option(
    "--head", type=Source(), help="With --compare: the folder of a head, to see how many of its answers change."
)
@click.option(
    "--tolerance",
    type=float,
    help="With --compare, --head and --examples: exit with 1 unless the head's score is shown to change by less than "
    "this many points, at an error rate of 5 %.",
)
def layers(
    cache: str,
    examples: Path | None,
    out: Path | None,
    variant: Any,
    alpha: float,
    normalise: Any,
    pooling: str,
    texts: int,
    memory_budget: float | None,
    views: tuple[str, ...],
    suggest: bool,
    compare: tuple[str, str] | None,
    neighbours: int | None,
    head: Path | None,
    tolerance: float | None,
) -> None:
    """Say how good each layer's representation is, from the cache alone; or how far two caches are apart.

    Entropy, effective ranks, anisotropy, mean cosine, norm, massive values, intrinsic dimension and CKA; with
    --examples how far labels lie apart and what a linear probe makes of each layer; of a cache with token states
    prompt entropy, curvature and token anisotropy; with --views InfoNCE, LiDAR and DiME.

    With --compare A B, two caches of the same texts: CKA, shared neighbours and row errors by layer, and what a head
    makes of them. Exit code 1 where --tolerance is given and the change is not shown to be within it.
    """
    from trainer.layer_metrics.measuring import Options, budget_of

    _require_belonging(compare is not None)
    budget = budget_of(memory_budget)
    if compare is not None:
        from trainer.drift.apart import Options as Comparing
        from trainer.layers import compared

        out = _made_or(out, "results/drift.csv")
        found = compared(*compare, Comparing(pooling, texts, neighbours or 10, budget), head, examples, tolerance, out)
        tell(f"{found}\nall {len(found.table):,} figures: {out}")
        if found.passed is False:
            click.get_current_context().exit(1)
        return
    from trainer.layers import layers as run

    options = Options(variant, alpha, normalise, pooling, texts, budget)
    tell("\n".join(run(cache, examples, _made_or(out, "results/layer_metrics.csv"), options, suggest, views)))


def _made_or(out: Path | None, default: str) -> Path:
    """The file that is named, or the default one."""
    if out is None:
        require_writable(Path(default), "file", "--out")
    return out or Path(default)


def _require_belonging(comparing: bool) -> None:
    """Refuses options of `ilse layers` that the other way to call it has."""
    own = ("neighbours", "head", "tolerance")
    for name in ("cache", "variant", "alpha", "normalise", "suggest", "views") if comparing else own:
        if click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT:
            expected = "options of --compare beside it" if comparing else f"--compare A B beside --{name}"
            raise UserError("ilse layers", expected=expected, found=f"--{name}", next_step=f"leave --{name} out")


@main.command()
@click.argument("cache", default="data/cache.zarr")
def verify(cache: str) -> None:
    """Read every byte of CACHE and name what is damaged; exit code 2 when anything is."""
    from pipeline.verify import verify as run

    tell(run(cache))


if __name__ == "__main__":
    main()
