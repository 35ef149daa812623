"""Which of a head's seeds is used where one is wanted: the one that is best on validation."""

from __future__ import annotations

from pathlib import Path

from ilse.core.terminal import say
from trainer.artifacts.artifact import CONFIG, load_head


def seed_folders(folder: Path) -> list[Path]:
    """The folders `seed-<n>` in it, by n."""
    named = [path for path in folder.glob("seed-*") if path.name.removeprefix("seed-").isdecimal()]
    return sorted(named, key=lambda path: int(path.name.removeprefix("seed-")))


def best_seed(folder: Path) -> Path:
    """The folder of one head: `folder` itself, or the seed in it with the best figure on validation.

    Of seeds that are equally good it is the one with the least validation loss, then the first. `ilse train` leaves
    `models/<head>/seed-<n>`; whoever names `models/<head>` means a head, and not each of its seeds. Raises `UserError`
    as `load_head` does for a seed that is damaged.
    """
    seeds = [seed for seed in seed_folders(folder) if (seed / CONFIG).exists()]
    if not seeds or (folder / CONFIG).exists():
        return folder
    facts = {seed: load_head(seed).facts for seed in seeds}
    best = max(seeds, key=lambda seed: (facts[seed].val_score, -facts[seed].val_loss))
    if len(seeds) > 1:
        say(f"{best}: the best of {len(seeds)} seeds on validation ({facts[best].val_score:.4f})")
    return best
