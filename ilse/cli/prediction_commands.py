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
    say_next,
    texts_option,
)
from ilse.core.files import ownership as ours
from ilse.core.files.destinations import Destination, Source
from ilse.core.files.places import is_stream
from ilse.core.machine.memory import keep_freed_memory
from ilse.core.terminal import say, tell

_FORMATS = ["lines", "csv", "tsv", "jsonl", "parquet", "folder"]
_device_option = click.option(
    "--device",
    help="Device the model runs on.",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
)
_threads_option = click.option(
    "--threads", help="CPU threads; 0 for all cores.", type=click.IntRange(0), default=0, show_default=True
)


@main.command()
@click.argument("head", type=Source())
@click.option("--input", "source", help="File, folder of text files, or - for standard input.", **existing("-", str))
@click.option(
    "--out", help="Output file: .csv, .jsonl or .parquet; CSV on standard output by default.", type=Destination("file")
)
@click.option(
    "--format",
    "read_as",
    type=click.Choice(_FORMATS),
    help="Format of the input; by default its file name decides, and standard input is read as lines.",
)
@click.option(
    "--text-column", "text", help="In a table, the column that holds the texts.", default="text", show_default=True
)
@click.option(
    "--text-pair-column", "pair", help="In a table of pairs, the column of the second texts; text_pair by default."
)
@click.option("--id-column", "id", help="Column to copy to the output as 'id'.")
@click.option(
    "--use",
    type=click.Choice(["whole", "first_line"]),
    default="whole",
    show_default=True,
    help="Read the whole text, or only its first line that is not empty.",
)
@click.option("--encoding", help="Encoding of text files.", default="utf-8", show_default=True)
@click.option("--delimiter", help="Delimiter of CSV and TSV, one character; a comma or a tab by default.")
@click.option(
    "--quote-char",
    help="Quote character of CSV and TSV; 'none' where quotes are ordinary characters.",
    default="auto",
    show_default=True,
)
@click.option(
    "--top-k", help="Number of most likely labels to report.", type=click.IntRange(1), default=1, show_default=True
)
@click.option("--with-text", is_flag=True, help="Also write the text of each answer.")
@click.option(
    "--model",
    "models",
    multiple=True,
    type=Source(),
    help="Model that the head was trained on; section 'extract' names it by default. For a head on several caches, "
    "repeat the option in the order of the caches.",
)
@_device_option
@_threads_option
@click.option(
    "--why",
    type=Destination("file"),
    help="Also write an HTML page that shows what each word contributes in each layer, for the first 100 texts. Only "
    "for heads that read tokens.",
)
@params_option
def predict(
    head: Path,
    source: str,
    out: Path | None,
    read_as: Any,
    top_k: int,
    with_text: bool,
    models: tuple[Path, ...],
    params: Path,
    device: str,
    threads: int,
    why: Path | None,
    **fields: Any,
) -> None:
    """Predict the labels or scores of new texts.

    HEAD is a folder such as models/cayley, whose best seed on validation is used, or models/cayley/seed-0. The model
    that HEAD was trained on reads the texts. A run with --out that was killed resumes when the same command is given
    again.
    """
    from ilse.predict.command import predict as run
    from ilse.predict.inputs import Fields

    keep_freed_memory()
    run(head, source, out, read_as, Fields(**fields), top_k, models, params, device, threads, why, with_text)
    if out is not None and not is_stream(out):  # else standard output, or a pipe, may hold the answers
        say(f"wrote {out}")
        say_next(f"'ilse export {head}' or 'ilse push {head}' takes the head to other programs and machines")


@main.command()
@click.argument("head", type=Source())
@examples_option
@texts_option
@results_made_option
@click.option(
    "--model", type=Source(), help="Model that the head was trained on; section 'extract' names it by default."
)
@_device_option
@_threads_option
@params_option
def why(
    head: Path, examples: Path, texts: Path, results: Path, model: Path | None, params: Path, device: str, threads: int
) -> None:
    """Show what each word contributes to a head's answers.

    HEAD is the folder of a head that reads tokens, such as models/weighted. Some validation examples are
    explained, word by word and layer by layer. The result, why.json in the results folder, is shown by 'ilse report'.
    """
    from ilse.predict.why.why_examples import explain_examples as run

    keep_freed_memory()
    tell(run(head, examples, texts, results, model, params, device, threads))
    say_next("ilse report")


@main.command()
@click.argument("head", type=Source())
@click.argument("repository")
@results_option
@click.option("--dry-run", is_flag=True, help="Show the files and the model card without uploading anything.")
@click.option("--private", is_flag=True, help="If the repository is new, create it as private.")
def push(head: Path, repository: str, results: Path, dry_run: bool, private: bool) -> None:
    """Upload a head and its model card to the Hugging Face Hub.

    HEAD is a folder such as models/cayley, REPOSITORY is owner/name. The model card describes the head, with
    its test scores if they are in --results. HF_TOKEN is the access token.
    """
    from ilse.predict.hub import push as run

    tell("\n".join(run(head, repository, results, dry_run, private)))
    say_next("the same command without --dry-run" if dry_run else f"elsewhere: ilse pull {repository} FOLDER")


@main.command()
@click.argument("repository")
@click.argument("out", type=Destination(ours.PULLED))
@click.option("--revision", help="Commit, branch or tag; the latest commit by default.")
def pull(repository: str, out: Path, revision: str | None) -> None:
    """Download a head from the Hugging Face Hub and check it.

    REPOSITORY is owner/name. The head goes to the folder OUT.
    """
    from ilse.predict.hub import pull as run

    tell(run(repository, out, revision))
    say_next(f"ilse predict {out} --input FILE --model MODEL")


@main.command()
@click.argument("head", type=Source())
@click.option(
    "--to",
    "target",
    type=click.Choice(["torch", "onnx", "sentence-transformer"]),
    required=True,
    help="Format: torch.export, ONNX, or a SentenceTransformer that includes the model.",
)
@click.option(
    "--out", help="Folder for the export; an older export is replaced.", type=Destination(ours.EXPORT), required=True
)
@click.option(
    "--model", type=Source(), help="With sentence-transformer: the model; section 'extract' names it by default."
)
@params_option
def export(head: Path, target: Any, out: Path, model: Path | None, params: Path) -> None:
    """Export a head as torch.export, ONNX or SentenceTransformer.

    HEAD is a folder such as models/cayley. torch.export and ONNX hold the head alone; a SentenceTransformer
    holds it together with its model.
    """
    if target == "sentence-transformer":
        from ilse.predict.sentence_transformer import export_folder

        export_folder(head, out, model, params)
        say(f"wrote {out}")
        say_next(f"in Python: ilse.predict.sentence_transformer.load('{out}')")
        return
    from trainer.export import export_head

    outputs = export_head(head, out, target)["outputs"]
    tell(f"{out}: {', '.join(f'{name} {shape}' for name, shape in outputs.items())}")
    say_next(f"in Python: trainer.export.load_exported('{out}')")
