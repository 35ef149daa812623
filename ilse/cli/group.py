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
from ilse.core.terminal import show_traceback


def plain_path(default: str) -> dict[str, Any]:
    """Settings of an option that names a path, whatever is there."""
    return {"type": click.Path(path_type=Path), "default": default, "show_default": True}


def existing(default: str, made: type = Path) -> dict[str, Any]:
    """Settings of an option that names what a command reads."""
    return {"type": Source(made), "default": default, "show_default": True}


def destination(kind: Kind, default: str) -> dict[str, Any]:
    """Settings of an option that names what a command writes."""
    return {"type": Destination(kind), "default": default, "show_default": True}


params_option = click.option("--params", help="The parameter file.", **existing("params.yaml"))
texts_option = click.option("--texts", help="The table of distinct texts.", **existing("data/texts.parquet"))
cache_option = click.option(
    "--cache", help="The activation cache, a folder or a URL.", **existing("data/cache.zarr", str)
)
caches_option = click.option(
    "--cache",
    "caches",
    multiple=True,
    type=Source(str),
    default=["data/cache.zarr"],
    show_default="train.caches, or data/cache.zarr",
    help="The activation cache, a folder or a URL; once for each of several models over the same texts.",
)
examples_option = click.option("--examples", help="The table of examples.", **existing("data/examples.parquet"))
scratch_option = click.option(
    "--scratch", help="Where unfinished work is kept, on the same disk.", **destination("folder", "data/scratch")
)
models_option = click.option("--models", help="The folder of trained heads.", **plain_path("models"))
results_option = click.option("--results", help="The folder of tables and figures.", **plain_path("results"))
# The same for the commands that write into them.
models_made_option = click.option("--models", help="The folder of trained heads.", **destination("folder", "models"))
results_made_option = click.option(
    "--results", help="The folder of tables and figures.", **destination("folder", "results")
)


def chosen_caches(named: tuple[str, ...], configured: list[str] | None) -> list[str]:
    """The caches that `--cache` names, or those of `train.caches`, or the default one."""
    given = click.get_current_context().get_parameter_source("caches") is not ParameterSource.DEFAULT
    return list(named) if given or not configured else configured


class Sections(Commands):
    """Lists commands under a heading for each module that adds some."""

    headings: ClassVar = {
        "cache_commands": "The cache",
        "training_commands": "Heads",
        "prediction_commands": "New texts and other programs",
    }

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes a section per module, in the order in which the modules were imported."""
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
