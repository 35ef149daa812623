"""Every command as the campaign calls it. A command without a place here fails a test."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.hostile.project import HEAD, TOKEN_HEAD

REPOSITORY = "owner/name"


@dataclass(frozen=True)
class Call:
    """One command line, given in the project's folder.

    Parameters
    ----------
    name
        For the tables; the command, and what tells two calls of it apart.
    arguments
        The command and its arguments.
    fresh
        Places that are removed before a run that is to start anew, beside those that the call was first to make.
    builds
        Whether it is run once to make the project, in the order of `CALLS`.
    again
        Whether it may be called where its results stand already.
    """

    name: str
    arguments: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    builds: bool = True
    again: bool = True

    @property
    def command(self) -> str:
        """Its name in the click group."""
        return self.arguments[0]

    @property
    def stands(self) -> bool:
        """Whether its results stand in the project, and it may be given again."""
        return self.builds and self.again


def _call(line: str, *fresh: str, name: str = "", builds: bool = True, again: bool = True) -> Call:
    return Call(name or line.split()[0], tuple(line.split()), fresh, builds, again)


def _export(target: str) -> Call:
    line = f"export {HEAD} --to {target} --out exported/{target} --model model"
    return _call(line, name=f"export {target}")


CALLS = (
    _call("fetch folder"),
    _call("prepare"),
    _call("plan"),
    _call("identify"),
    _call("extract"),
    _call("inspect"),
    _call("verify"),
    _call("layers --examples data/examples.parquet"),
    _call("subset data/cache.zarr data/small.zarr --share 0.5 --examples data/examples.parquet data/small.parquet"),
    _call("train"),
    _call("control"),
    _call("tune --apply"),
    _call("lora"),
    _call("analyse"),
    _call("evaluate"),
    _call(f"why {TOKEN_HEAD} --model model"),
    _call("report --texts data/texts.parquet --markdown report.md --figures results/pictures"),
    _call("compare a=results b=results"),
    _call(
        f"layers --compare data/cache.zarr data/cache.zarr --head {HEAD} --examples data/examples.parquet",
        name="layers --compare",
    ),
    _call(f"predict {HEAD} --input new.txt --model model --out answers.csv"),
    _call(f"predict {HEAD} --input new.txt --model model", name="predict to the screen"),
    _call(f"predict {TOKEN_HEAD} --input new.txt --model model --out words.csv --why words.html", name="predict --why"),
    _call(f"push {HEAD} {REPOSITORY} --dry-run", name="push --dry-run"),
    _call(f"push {HEAD} {REPOSITORY}"),
    _call(f"pull {REPOSITORY} pulled"),
    _export("torch"),
    _export("onnx"),
    _export("sentence-transformer"),
    _call("preset tasks/banking77", builds=False),
    _call("init --data source.csv --model model", "params.yaml", builds=False, again=False),
)
QUICK = ("fetch", "prepare", "identify", "extract", "subset", "verify", "preset", "init")
"""Calls of the quick campaign: those that need no trained head, and few imports."""
