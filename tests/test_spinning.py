"""How long OpenMP's threads spin, as libgomp itself says when PyTorch loads it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ilse.core.machine.spinning import COUNT, POLICY, ROUNDS

ROOT = Path(__file__).parent.parent


def python(*arguments: str, cwd: Path = ROOT, **settings: str) -> subprocess.CompletedProcess[str]:
    """A process of a user who has set this and nothing else of the kind."""
    environment = {name: value for name, value in os.environ.items() if name not in (COUNT, POLICY)}
    environment |= {"PYTHONPATH": str(ROOT), **settings}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch brings libgomp on Linux")
@pytest.mark.parametrize(
    ("settings", "rounds"),
    [({}, ROUNDS), ({COUNT: "7"}, "7"), ({POLICY: "passive"}, "0")],
    ids=["own", "count", "policy"],
)
def test_a_command_has_its_threads_spin_briefly_and_a_users_setting_wins(
    settings: dict[str, str], rounds: str, tmp_path: Path
) -> None:
    pytest.importorskip("lightning", reason="needs the extra 'train'")
    (tmp_path / "params.yaml").write_text("train: {}\n")
    said = python("-m", "ilse.cli", "train", "last", cwd=tmp_path, OMP_DISPLAY_ENV="verbose", **settings).stderr
    assert "error: cache data/cache.zarr" in said, "it came as far as opening the cache, with torch loaded"
    assert set(re.findall(rf"{COUNT} = '(\d+)'", said)) == {rounds}


AS_A_LIBRARY = """
import json, os
from ilse.core.machine.spinning import COUNT
if __name__ == "__main__":
    before = dict(os.environ)
    from pipeline import extract
    from pipeline.cluster.executor import open_executor
    from pipeline.config import ClusterParams
    from tests.pipeline.made_up import environment
    with open_executor(ClusterParams(kind="local", workers=1)) as executor:
        there = executor.call(environment)
    changed = {name for name in before | os.environ if before.get(name) != os.environ.get(name)}
    print(json.dumps([there.get(COUNT), sorted(changed - {"_RJEM_MALLOC_CONF"})]))  # that is Polars' own
"""


@pytest.mark.parametrize(("settings", "rounds"), [({}, ROUNDS), ({POLICY: "passive"}, None)], ids=["own", "policy"])
def test_workers_spin_briefly_and_the_callers_environment_stays(settings: dict[str, str], rounds: str | None) -> None:
    pytest.importorskip("distributed", reason="needs the extra 'extract'")
    done = python("-c", AS_A_LIBRARY, **settings)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [rounds, []]
