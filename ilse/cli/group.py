"""The command group, and the options that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import click
from click.core import ParameterSource

from ilse import __version__
from ilse.core.command_errors import Commands
from ilse.core.files.destinations import Destination, Kind, Source
from ilse.core.machine.spinning import spin_briefly
from ilse.core.shadows import require_ours
from ilse.core.terminal import say, show_traceback


def plain_path(default: str) -> dict[str, Any]:
    """Settings of a path option that need not exist."""
    return {"type": click.Path(path_type=Path), "default": default, "show_default": True}


def existing(default: str, made: type = Path) -> dict[str, Any]:
    """Settings of a path option that a command reads."""
    return {"type": Source(made), "default": default, "show_default": True}


def destination(kind: Kind, default: str) -> dict[str, Any]:
    """Settings of a path option that a command writes."""
    return {"type": Destination(kind), "default": default, "show_default": True}


params_option = click.option("--params", help="Parameter file.", **existing("params.yaml"))
texts_option = click.option("--texts", help="Table of distinct texts.", **existing("data/texts.parquet"))
cache_option = click.option("--cache", help="Cache to read: a folder or a URL.", **existing("data/cache.zarr", str))
caches_option = click.option(
    "--cache",
    "caches",
    multiple=True,
    type=Source(str),
    default=["data/cache.zarr"],
    show_default="train.caches, or data/cache.zarr",
    help="Cache to read: a folder or a URL. Repeat the option for several models over the same texts.",
)
examples_option = click.option("--examples", help="Table of examples.", **existing("data/examples.parquet"))
scratch_option = click.option(
    "--scratch", help="Folder for unfinished work, on the same disk.", **destination("folder", "data/scratch")
)
models_option = click.option("--models", help="Folder of trained heads.", **plain_path("models"))
results_option = click.option("--results", help="Folder of tables and figures.", **plain_path("results"))
# For commands that write into these folders.
models_made_option = click.option("--models", help="Folder for trained heads.", **destination("folder", "models"))
results_made_option = click.option(
    "--results", help="Folder for tables and figures.", **destination("folder", "results")
)


def say_next(step: str) -> None:
    """Ends a command by naming the next one, on standard error: standard output holds its answer alone."""
    say(f"next: {step}")


def chosen_caches(named: tuple[str, ...], configured: list[str] | None) -> list[str]:
    """The caches given with `--cache`, else `train.caches`, else the default cache."""
    given = click.get_current_context().get_parameter_source("caches") is not ParameterSource.DEFAULT
    return list(named) if given or not configured else configured


class Sections(Commands):
    """A command group whose help lists the commands under one heading per module."""

    headings: ClassVar = {
        "cache_commands": "The cache",
        "training_commands": "Heads",
        "prediction_commands": "Using a head",
    }

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one section per module, in the order of import."""
        width = formatter.width - 6 - max(map(len, self.commands))
        for module, heading in self.headings.items():
            of_module = {
                name: command for name, command in self.commands.items() if command.callback.__module__.endswith(module)
            }
            with formatter.section(heading):
                formatter.write_dl([(name, one.get_short_help_str(width)) for name, one in of_module.items()])


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ilse")
def main() -> None:
    """Cache every layer of a frozen language model once, then train heads over all layers anywhere."""
    sys.excepthook = show_traceback
    require_ours()
    spin_briefly()  # before a subcommand imports torch
