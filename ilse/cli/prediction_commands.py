"""Commands that take a trained head to new texts and to other programs.

Imports are lazy, so that each command needs its own extra alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ilse.cli.group import (
    examples_option,
    existing,
    main,
    params_option,
    results_made_option,
    results_option,
    texts_option,
)
from ilse.core.files import ownership as ours
from ilse.core.files.destinations import Destination, Source
from ilse.core.machine.memory import keep_freed_memory
from ilse.core.terminal import tell

_FORMATS = ["lines", "csv", "tsv", "jsonl", "parquet", "folder"]


@main.command()
@click.argument("head", type=Source())
@click.option("--input", "source", help="File, folder of text files, or -.", **existing("-", str))
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
@params_option
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
    from ilse.predict.command import predict as run
    from ilse.predict.inputs import Fields

    keep_freed_memory()
    run(head, source, out, read_as, Fields(**fields), top_k, models, params, device, threads, why)


@main.command()
@click.argument("head", type=Source())
@examples_option
@texts_option
@results_made_option
@click.option("--model", type=Source(), help="The head's model; else that of section 'extract'.")
@click.option(
    "--device", help="Of the model.", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option("--threads", help="CPU threads; 0 for all cores.", type=click.IntRange(0), default=0, show_default=True)
@params_option
def why(
    head: Path, examples: Path, texts: Path, results: Path, model: Path | None, params: Path, device: str, threads: int
) -> None:
    """Show what each word adds to a head's answers in each layer, for some validation examples.

    HEAD is a folder such as models/weighted/seed-0, of a head that reads tokens. Writes why.json to the results, which
    'ilse report' then shows.
    """
    from ilse.predict.why.why_examples import explain_examples as run

    keep_freed_memory()
    tell(run(head, examples, texts, results, model, params, device, threads))


@main.command()
@click.argument("head", type=Source())
@click.argument("repository")
@results_option
@click.option("--dry-run", is_flag=True, help="Show the files and the card, and send nothing.")
@click.option("--private", is_flag=True, help="Where the repository is made: for its owner's eyes alone.")
def push(head: Path, repository: str, results: Path, dry_run: bool, private: bool) -> None:
    """Push HEAD, a folder such as models/cayley/seed-0, to REPOSITORY (owner/name) on the Hugging Face Hub.

    With a model card from the head and, where --results has its test figures, from those. HF_TOKEN says who pushes.
    """
    from ilse.predict.hub import push as run

    tell("\n".join(run(head, repository, results, dry_run, private)))


@main.command()
@click.argument("repository")
@click.argument("out", type=Destination(ours.PULLED))
@click.option("--revision", help="A commit, branch or tag; the newest without it.")
def pull(repository: str, out: Path, revision: str | None) -> None:
    """Pull the head in REPOSITORY (owner/name) of the Hugging Face Hub into the folder OUT, and check it."""
    from ilse.predict.hub import pull as run

    tell(run(repository, out, revision))


@main.command()
@click.argument("head", type=Source())
@click.option("--to", "target", type=click.Choice(["torch", "onnx", "sentence-transformer"]), required=True)
@click.option("--out", help="The export's folder, which is replaced.", type=Destination(ours.EXPORT), required=True)
@click.option("--model", type=Source(), help="For sentence-transformer: the model, as in predict.")
@params_option
def export(head: Path, target: Any, out: Path, model: Path | None, params: Path) -> None:
    """Write HEAD for other programs: alone as torch.export or ONNX, or with its model as a SentenceTransformer."""
    if target == "sentence-transformer":
        from ilse.predict.sentence_transformer import export_folder

        export_folder(head, out, model, params)
        return
    from trainer.export import export_head

    outputs = export_head(head, out, target)["outputs"]
    tell(f"{out}: {', '.join(f'{name} {shape}' for name, shape in outputs.items())}")
