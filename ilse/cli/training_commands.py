"""Commands that train from the cache, analyse and evaluate.

Imports are lazy, so that each command needs its own extra alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ilse.cli.group import (
    cache_option,
    caches_option,
    chosen_caches,
    destination,
    examples_option,
    main,
    models_made_option,
    models_option,
    params_option,
    plain_path,
    results_made_option,
    results_option,
    say_next,
    texts_option,
)
from ilse.core.errors import UserError
from ilse.core.files import ownership as ours
from ilse.core.files.atomic import require_ours
from ilse.core.files.destinations import Destination, Source, require_writable
from ilse.core.machine.memory import OF_BATCHES, keep_freed_memory
from ilse.core.terminal import say, tell


@main.command()
@click.argument("heads", nargs=-1)
@params_option
@caches_option
@examples_option
@models_made_option
@results_made_option
@click.option(
    "--minutes", type=float, help="Search time of the head 'auto', in minutes; train.options.auto.minutes by default."
)
def train(
    heads: tuple[str, ...],
    params: Path,
    caches: tuple[str, ...],
    examples: Path,
    models: Path,
    results: Path,
    minutes: float | None,
) -> None:
    """Train heads from the cache alone, with several seeds.

    HEADS are names of heads; train.heads by default. The head 'auto' tries many heads with one seed for some minutes
    and keeps the one that scores best on validation.
    """
    from ilse.core.params import load_section
    from trainer.config import AUTO, TrainParams

    # Before Lightning is loaded, which takes seconds: a mistyped key is said at once.
    section = load_section("train", TrainParams, params)
    chosen = heads or section.heads
    if minutes is not None:
        section = section.with_minutes(minutes, chosen)
    from trainer.stages.train import train as run

    keep_freed_memory(OF_BATCHES)
    places = chosen_caches(caches, section.caches)
    for head in chosen:  # before the first is trained
        require_ours(models / head, ours.HEADS, "--models")
    for head in chosen:
        if head == AUTO:
            from trainer.stages.auto import train_auto

            train_auto(section, places, examples, models, results)
        else:
            run(section, head, places, examples, models, results)
    say_next("ilse evaluate, or first 'ilse control' for baselines to compare with")


@main.command()
@click.argument("names", nargs=-1)
@params_option
@caches_option
@examples_option
@texts_option
@models_made_option
@results_made_option
def control(
    names: tuple[str, ...],
    params: Path,
    caches: tuple[str, ...],
    examples: Path,
    texts: Path,
    models: Path,
    results: Path,
) -> None:
    """Fit controls: baselines to compare heads with.

    NAMES are names of controls; all of section 'controls' by default.
    """
    from ilse.core.params import load_section
    from trainer.config import TrainParams
    from trainer.controls.config import ControlParams

    section, training = load_section("controls", ControlParams, params), load_section("train", TrainParams, params)
    from trainer.stages.control import control as run

    chosen = names or [*section.names, *section.caches]
    places = chosen_caches(caches, training.caches)
    for name in chosen:  # before the first is fitted
        require_ours(models / name, ours.HEADS, "--models")
    for name in chosen:
        run(section, training, name, places, examples, texts, models, results)
    say_next("ilse evaluate")


@main.command()
@click.argument("heads", nargs=-1)
@params_option
@caches_option
@examples_option
@results_made_option
@click.option("--apply", is_flag=True, help="Write the best values into the parameter file.")
def tune(
    heads: tuple[str, ...], params: Path, caches: tuple[str, ...], examples: Path, results: Path, apply: bool
) -> None:
    """Search the options and the training recipe of heads.

    HEADS are names of heads; train.heads by default. Each head gets the same number of trials.
    """
    from ilse.core.params import load_section
    from ilse.core.yaml_edit import set_values
    from trainer.config import AUTO, TrainParams
    from trainer.search.space import TuneParams, section_of

    tuning, train = load_section("tune", TuneParams, params), load_section("train", TrainParams, params)
    if apply:
        require_writable(params, "file", "--params")
    from trainer.stages.tune import tune as run

    keep_freed_memory(OF_BATCHES)
    places = chosen_caches(caches, train.caches)
    for head in heads or [head for head in train.heads if head != AUTO]:  # which searches on its own
        tuned = run(tuning, train, head, places, examples, results)
        tell(tuned.line())
        if apply:
            set_values(params, f"train.options.{head}", section_of(head, tuned.values))
    say_next("ilse train" if apply else "'ilse tune --apply' writes these values into the parameter file")


@main.command()
@params_option
@cache_option
@texts_option
@examples_option
@models_made_option
@results_made_option
def lora(params: Path, cache: str, texts: Path, examples: Path, models: Path, results: Path) -> None:
    """Fine-tune the model itself with LoRA, for comparison.

    It trains on the same examples as the heads.
    """
    from ilse.core.params import load_section
    from ilse.finetune.config import LoraParams
    from pipeline.config import ExtractParams
    from trainer.config import TrainParams

    # Before transformers is loaded, as for train.
    tuning, extract = load_section("lora", LoraParams, params), load_section("extract", ExtractParams, params)
    train = load_section("train", TrainParams, params)
    require_ours(models / "lora", ours.HEADS, "--models")
    from ilse.finetune.lora import lora as run

    keep_freed_memory()
    run(tuning, extract, train, cache, texts, examples, models, results)
    say_next("ilse evaluate")


@main.command()
@params_option
@caches_option
@examples_option
@models_option
@results_made_option
def analyse(params: Path, caches: tuple[str, ...], examples: Path, models: Path, results: Path) -> None:
    """Show what each layer contributes to the trained heads.

    It reads the validation split alone.
    """
    from ilse.core.params import load_section
    from trainer.config import TrainParams

    section = load_section("train", TrainParams, params)
    from trainer.stages.analyse import analyse as run

    keep_freed_memory(OF_BATCHES)
    run(section, chosen_caches(caches, section.caches), examples, models, results)
    say(f"wrote {results / 'analysis'}")
    say_next("ilse report, after 'ilse evaluate'")


@main.command()
@params_option
@caches_option
@examples_option
@models_option
@results_made_option
def evaluate(params: Path, caches: tuple[str, ...], examples: Path, models: Path, results: Path) -> None:
    """Score heads and controls on the test split.

    It writes the leaderboard and prints it.
    """
    from ilse.core.params import load_section
    from ilse.finetune.config import LoraParams
    from trainer.config import TrainParams
    from trainer.controls.config import ControlParams
    from trainer.stages.evaluate import evaluate as run

    train, controls = load_section("train", TrainParams, params), load_section("controls", ControlParams, params)
    names = [*train.heads, *controls.all_names, *load_section("lora", LoraParams, params).run]
    drawn = train.shots is not None or train.share is not None
    run(
        names,
        chosen_caches(caches, train.caches),
        examples,
        models,
        results,
        train.memory_budget,
        controls.baseline,
        drawn,
    )
    tell((results / "leaderboard.txt").read_text(encoding="utf-8"), end="")
    say_next("ilse report, or first 'ilse analyse' for what each layer contributes")


@main.command()
@cache_option
@click.option(
    "--examples", type=Source(), help="Table of examples: also measures how well each layer separates its labels."
)
@click.option(
    "--out",
    type=Destination("file"),
    help="Table to write: .csv, .jsonl or .parquet.",
    show_default="results/layer_metrics.csv; with --compare results/drift.csv",
)
@click.option(
    "--variant",
    type=click.Choice(["ours", "published"]),
    default="ours",
    show_default=True,
    help="How entropies and curvature are computed: our way, or as in the code of arXiv 2502.02013.",
)
@click.option("--alpha", type=float, default=1.0, show_default=True, help="Order of the entropies.")
@click.option(
    "--normalise",
    type=click.Choice(["raw", "log_n", "log_d", "log_n_log_d", "max"]),
    default="raw",
    show_default=True,
    help="Unit of entropies: nats (raw), or divided by the logarithm of the texts or tokens (n), of the width (d), of "
    "both, or of the smaller one (max).",
)
@click.option("--pooling", default="mean", show_default=True, help="Pooling whose rows are measured.")
@click.option(
    "--texts",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Texts in the sample, for metrics that are not sums over all texts.",
)
@click.option("--memory-budget", type=float, help="Memory for sums and samples, in GB; 0.27 by default.")
@click.option(
    "--views",
    multiple=True,
    type=Source(str),
    help="Cache of the same texts with noise (extract.noise), for InfoNCE, LiDAR and DiME. Give the option at least "
    "twice, once for each cache.",
)
@click.option("--suggest", is_flag=True, help="Say which layers to keep, as lines for params.yaml; needs --examples.")
@click.option(
    "--compare",
    type=(Source(str), Source(str)),
    metavar="A B",
    help="Compare two caches of the same texts, A and B, instead of measuring one.",
)
@click.option("--neighbours", type=click.IntRange(1), help="With --compare: neighbours per text; 10 by default.")
@click.option(
    "--head", type=Source(), help="With --compare: folder of a head, to count how many of its answers change."
)
@click.option(
    "--tolerance",
    type=float,
    help="With --compare, --head and --examples: exit with code 1 unless a test at the 5 % level shows that the head's "
    "score changes by less than this many points.",
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
    """Measure each layer's representation, or compare two caches.

    Always: entropy, effective rank, anisotropy, mean cosine, norm, massive values, intrinsic dimension and CKA. With
    --examples: separation of the labels and a linear probe per layer. With token states in the cache: prompt entropy,
    curvature and token anisotropy. With --views: InfoNCE, LiDAR and DiME.

    With --compare A B, two caches of the same texts are compared: CKA, shared neighbours and row errors per layer,
    and the change in a head's answers. With --tolerance, the exit code is 1 if the head's score is not shown to stay
    within it.
    """
    from trainer.layer_metrics.measuring import Options, budget_of

    _require_belonging(compare is not None)
    budget = budget_of(memory_budget)
    if compare is not None:
        from trainer.cache_drift.row_differences import Options as Comparing
        from trainer.stages.layers import compared

        out = _made_or(out, "results/drift.csv")
        found = compared(*compare, Comparing(pooling, texts, neighbours or 10, budget), head, examples, tolerance, out)
        tell(f"{found}\nall {len(found.table):,} figures: {out}")
        if found.passed is False:
            click.get_current_context().exit(1)
        if head is None:
            say_next(f"add --head models/HEAD --examples {examples or 'data/examples.parquet'}")
        return
    from trainer.stages.layers import layers as run

    options = Options(variant, alpha, normalise, pooling, texts, budget)
    tell("\n".join(run(cache, examples, _made_or(out, "results/layer_metrics.csv"), options, suggest, views)))
    if examples is None:
        say_next("add --examples data/examples.parquet to probe the layers for its labels")
    else:
        say_next("ilse train" if suggest else "add --suggest to see which layers to keep")


@main.command()
@results_option
@click.option("--data", help="Folder that holds prepare.json and extract.json.", **plain_path("data"))
@click.option("--out", help="Report file.", **destination("file", "results/report.html"))
@click.option("--texts", type=Source(), help="Table of texts, to show examples in words.")
@click.option("--markdown", type=Destination("file"), help="Also write a short Markdown report, for a pull request.")
@click.option("--figures", type=Destination(ours.PICTURES), help="Also write every chart to this folder: PNG and SVG.")
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
    say_next(f"open {out} in a browser; 'ilse predict models/HEAD' answers new texts")


@main.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--out", help="HTML page to write.", **destination("file", "compare.html"))
def compare(runs: tuple[str, ...], out: Path) -> None:
    """Compare several evaluations on one HTML page.

    RUNS are the results folders of the evaluations, each as FOLDER or NAME=FOLDER.
    """
    from trainer.report import compare as run

    tell(run(runs, out))
    say_next(f"open {out} in a browser")


def _made_or(out: Path | None, default: str) -> Path:
    """The file given with --out, else the default one, which must be writable."""
    if out is None:
        require_writable(Path(default), "file", "--out")
    return out or Path(default)


def _require_belonging(comparing: bool) -> None:
    """Refuses options of `ilse layers` that belong to the other mode, with or without --compare."""
    own = ("neighbours", "head", "tolerance")
    for name in ("cache", "variant", "alpha", "normalise", "suggest", "views") if comparing else own:
        if click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT:
            expected = "options of --compare beside it" if comparing else f"--compare A B beside --{name}"
            raise UserError("ilse layers", expected=expected, found=f"--{name}", next_step=f"leave --{name} out")
