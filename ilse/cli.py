"""The command line: a subcommand a stage. Imports are lazy, so that each command needs its own extra alone."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import click

from ilse import __version__
from ilse.errors import UserError

EXTRAS = {
    "init": "extract",
    "preset": "extract",
    "fetch": "extract",
    "prepare": "extract",
    "plan": "extract",
    "extract": "extract",
    "train": "train",
    "analyse": "train",
    "control": "train",
    "evaluate": "train",
    "report": "train",
    "compare": "train",
    "tune": "tune",
    "predict": "predict",
    "lora": "lora",
}
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


class _Commands(click.Group):
    """Turns what a user can mend into a message and exit code 2, without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the stages, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the chosen command."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            click.echo("\ninterrupted; what is finished is kept, and the same command goes on from there", err=True)
            sys.exit(INTERRUPTED)
        except ModuleNotFoundError as error:
            _fail(str(_missing_extra(ctx.invoked_subcommand or "", error)))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
                raise
            _fail(str(_no_room(error)))


def _fail(message: str) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(2)


def _missing_extra(command: str, error: ModuleNotFoundError) -> UserError:
    extra = EXTRAS.get(command)
    if extra is None or (error.name or "").split(".")[0] in ("ilse", "finetune", "inference", "pipeline", "trainer"):
        raise error
    return UserError(
        f"command '{command}'",
        expected=f"the packages of the extra '{extra}'",
        found=f"no package '{error.name}'",
        next_step=f"pip install 'ilse-cache[{extra}]'",
    )


def _no_room(error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    cure = "free space" if full else "change the permission"
    return UserError(
        f"writing {error.filename or 'a file'}",
        expected="free space on the disk" if full else "permission to write",
        found=error.strerror or "no space",
        next_step=f"{cure} and run the same command again; what is finished is kept",
    )


def _path(default: str) -> dict[str, Any]:
    return {"type": click.Path(path_type=Path), "default": default, "show_default": True}


_params = click.option("--params", help="The parameter file.", **_path("params.yaml"))
_texts = click.option("--texts", help="The table of distinct texts.", **_path("data/texts.parquet"))
_cache = click.option(
    "--cache", help="The activation cache, a folder or a URL.", default="data/cache.zarr", show_default=True
)
_examples = click.option("--examples", help="The table of examples.", **_path("data/examples.parquet"))
_models = click.option("--models", help="The folder of trained heads.", **_path("models"))
_results = click.option("--results", help="The folder of tables and figures.", **_path("results"))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ilse")
def main() -> None:
    """Cache every layer of a frozen language model once, then train heads over all layers anywhere."""


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
    click.echo(f"wrote {', '.join(written)}")
    if data is None or model is None:
        click.echo("next: fill in prepare.path and extract.model.path in params.yaml, or 'ilse preset'")
    click.echo("next: ilse prepare, extract, train, control, analyse, evaluate, report; or all: dvc init && dvc repro")


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
    click.echo("\n".join(apply(list(names), params, place, revision) if names else found))


@main.command()
@click.argument("artifact")
@_params
@click.option("--out", help="The folder; the artifact gets one of its own inside.", **_path("data/raw"))
def fetch(artifact: str, params: Path, out: Path) -> None:
    """Fetch ARTIFACT (a key of section 'fetch') by its pinned reference."""
    from ilse.params import load_section
    from pipeline.fetch import FetchParams
    from pipeline.fetch import fetch as run

    click.echo(run(load_section(f"fetch.{artifact}", FetchParams, params).root, out / artifact))


@main.command()
@_params
@click.option("--out", help="The folder of the two tables and of prepare.json.", **_path("data"))
def prepare(params: Path, out: Path) -> None:
    """Turn a data set into distinct texts and examples with splits."""
    from ilse.files import write_json
    from ilse.params import load_section
    from pipeline.prepare import PrepareParams
    from pipeline.prepare import prepare as run

    counts = run(load_section("prepare", PrepareParams, params), out)
    for note in counts.pop("notes"):
        click.echo(note)
    write_json(out / "prepare.json", counts)


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

        found = run(load_section("extract", ExtractParams, params), texts)
    click.echo(json.dumps(found.document(), indent=2) if as_json else "\n".join(found.lines()))


@main.command()
@_params
@_texts
@click.option("--out", help="The activation cache, a folder or a URL.", default="data/cache.zarr", show_default=True)
@click.option("--scratch", help="Where unfinished work is kept, on the same disk.", **_path("data/scratch"))
@click.option("--figures", help="Where the run's figures go.", **_path("data/extract.json"))
@click.option("--section", help="The section with its parameters.", default="extract", show_default=True)
def extract(params: Path, texts: Path, out: str, scratch: Path, figures: Path, section: str) -> None:
    """Run the model over all texts and cache every layer's pooled row."""
    from ilse.files import write_json
    from ilse.params import load_section
    from pipeline.config import ExtractParams
    from pipeline.extract import extract as run

    write_json(figures, run(load_section(section, ExtractParams, params), texts, out, scratch))


@main.command()
@click.argument("heads", nargs=-1)
@_params
@_cache
@_examples
@_models
@_results
def train(heads: tuple[str, ...], params: Path, cache: str, examples: Path, models: Path, results: Path) -> None:
    """Train HEADS (all of train.heads) with several seeds, from the cache alone."""
    from ilse.params import load_section
    from trainer.config import TrainParams

    # Before Lightning is loaded, which takes seconds: a mistyped key is said at once.
    section = load_section("train", TrainParams, params)
    from trainer.train import train as run

    for head in heads or section.heads:
        run(section, head, cache, examples, models, results)


@main.command()
@click.argument("names", nargs=-1)
@_params
@_cache
@_examples
@_texts
@_models
@_results
def control(
    names: tuple[str, ...], params: Path, cache: str, examples: Path, texts: Path, models: Path, results: Path
) -> None:
    """Fit controls NAMES (all of section 'controls'): what a head's figure is to be compared with."""
    from ilse.params import load_section
    from trainer.config import TrainParams
    from trainer.controls.config import ControlParams

    section, training = load_section("controls", ControlParams, params), load_section("train", TrainParams, params)
    from trainer.control import control as run

    for name in names or [*section.names, *section.caches]:
        run(section, training, name, cache, examples, texts, models, results)


@main.command()
@click.argument("heads", nargs=-1)
@_params
@_cache
@_examples
@_results
@click.option("--apply", is_flag=True, help="Write what was found into the parameter file.")
def tune(heads: tuple[str, ...], params: Path, cache: str, examples: Path, results: Path, apply: bool) -> None:
    """Search options and recipe of HEADS (all of train.heads), with the same number of trials for each."""
    from ilse.edit import set_values
    from ilse.params import load_section
    from trainer.config import TrainParams
    from trainer.space import TuneParams, section_of

    tuning, train = load_section("tune", TuneParams, params), load_section("train", TrainParams, params)
    from trainer.tune import tune as run

    for head in heads or train.heads:
        tuned = run(tuning, train, head, cache, examples, results)
        click.echo(tuned.line())
        if apply:
            set_values(params, f"train.options.{head}", section_of(head, tuned.values))


@main.command()
@_params
@_cache
@_texts
@_examples
@_models
@_results
def lora(params: Path, cache: str, texts: Path, examples: Path, models: Path, results: Path) -> None:
    """Fine-tune the model itself on the same examples, to compare heads with."""
    from finetune.config import LoraParams
    from ilse.params import load_section
    from pipeline.config import ExtractParams
    from trainer.config import TrainParams

    # Before transformers is loaded, as for train.
    tuning, extract = load_section("lora", LoraParams, params), load_section("extract", ExtractParams, params)
    train = load_section("train", TrainParams, params)
    from finetune.lora import lora as run

    run(tuning, extract, train, cache, texts, examples, models, results)


@main.command()
@_params
@_cache
@_examples
@_models
@_results
def analyse(params: Path, cache: str, examples: Path, models: Path, results: Path) -> None:
    """Say what the layers did in the trained heads, on the validation split."""
    from ilse.params import load_section
    from trainer.config import TrainParams

    section = load_section("train", TrainParams, params)
    from trainer.analyse import analyse as run

    run(section, cache, examples, models, results)


@main.command()
@_params
@_cache
@_examples
@_models
@_results
def evaluate(params: Path, cache: str, examples: Path, models: Path, results: Path) -> None:
    """Score heads and controls on the test split and write the leaderboard."""
    from finetune.config import LoraParams
    from ilse.params import load_section
    from trainer.config import TrainParams
    from trainer.controls.config import ControlParams
    from trainer.evaluate import evaluate as run

    train, controls = load_section("train", TrainParams, params), load_section("controls", ControlParams, params)
    names = [*train.heads, *controls.all_names, *load_section("lora", LoraParams, params).run]
    drawn = train.shots is not None or train.share is not None
    run(names, cache, examples, models, results, train.memory_budget, controls.baseline, drawn)
    click.echo((results / "leaderboard.txt").read_text(encoding="utf-8"), nl=False)


@main.command()
@click.argument("head", type=click.Path(path_type=Path))
@click.option("--input", "source", help="Lines, CSV or JSONL; - for standard input.", type=str, required=True)
@click.option("--out", help="A .csv or .jsonl file; without it CSV to the screen.", type=click.Path(path_type=Path))
@click.option("--format", "read_as", type=click.Choice(["lines", "csv", "jsonl"]), help="Of the input, if not by name.")
@click.option("--column", help="Column of the texts, in CSV and JSONL.", default="text", show_default=True)
@click.option("--model", type=click.Path(path_type=Path), help="The head's model; else that of section 'extract'.")
@_params
def predict(
    head: Path, source: str, out: Path | None, read_as: Any, column: str, model: Path | None, params: Path
) -> None:
    """Predict new texts with HEAD, a folder such as models/cayley/seed-0, and the model it was trained over."""
    from inference.command import predict as run

    run(head, source, out, read_as, column, model, params)


@main.command()
@_results
@click.option("--data", help="The folder of prepare.json and extract.json.", **_path("data"))
@click.option("--out", help="The report.", **_path("results/report.html"))
@click.option("--texts", type=click.Path(path_type=Path), help="The table of texts: the report then shows examples.")
@click.option("--markdown", type=click.Path(path_type=Path), help="A short report too, for a pull request.")
@click.option("--figures", type=click.Path(path_type=Path), help="A folder of every chart too, as PNG and SVG.")
def report(
    results: Path, data: Path, out: Path, texts: Path | None, markdown: Path | None, figures: Path | None
) -> None:
    """Write the report, one self-contained HTML file."""
    from trainer.report import as_markdown, as_pictures
    from trainer.report import report as run

    facts = {stage: data / f"{stage}.json" for stage in ("prepare", "extract")}
    click.echo(run(results, facts, out, texts))
    if markdown is not None:
        click.echo(as_markdown(results, markdown))
    if figures is not None:
        click.echo(as_pictures(results, facts, figures))


@main.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--out", help="The page.", **_path("compare.html"))
def compare(runs: tuple[str, ...], out: Path) -> None:
    """Compare evaluations: RUNS are their results folders, each as FOLDER or NAME=FOLDER."""
    from trainer.report import compare as run

    click.echo(run(runs, out))


@main.command()
@click.argument("cache", default="data/cache.zarr")
def inspect(cache: str) -> None:
    """Print what CACHE is: spec, size, completeness and each layer's statistics."""
    from pipeline.inspect import describe

    click.echo(describe(cache))


@main.command()
@click.argument("cache", default="data/cache.zarr")
def verify(cache: str) -> None:
    """Read every byte of CACHE and name what is damaged; exit code 2 when anything is."""
    from pipeline.verify import verify as run

    click.echo(run(cache))


if __name__ == "__main__":
    main()
