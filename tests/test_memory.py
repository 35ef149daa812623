"""Memory that is freed stays with the process, so that the kernel need not map it again; and how much there is left."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from ilse.core.machine.memory import container_free

ROOT = Path(__file__).parent.parent
FAULTS = """
import resource, sys, torch
from ilse.core.machine.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
x = torch.ones(2048, 6000)  # 49 MB: above 32 MB glibc maps by default
def work():
    for _ in range(5):
        a = x + 1
        b = a * a
        c = b - x
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
# The heap grows until the blocks have found their places, which is a matter of passes: how many, the machine decides.
print(min(faults() for _ in range(6)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_for_the_next_pass() -> None:
    def faults(way: str) -> int:
        command = [sys.executable, "-c", FAULTS, way]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    assert 10 * faults("keep") < faults("plain")


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "4000", "memory.current": "3000", "memory.stat": "anon 2200\ninactive_file 800\n"}, 1_800),
        ({"memory.max": "4000", "memory.current": "4100", "memory.stat": "anon 4100\n"}, 0),
        ({"memory.max": "max", "memory.current": "3000", "memory.stat": "anon 1\n"}, None),
        (
            {
                "memory/memory.limit_in_bytes": "4000",
                "memory/memory.usage_in_bytes": "3000",
                "memory/memory.stat": "cache 900\ntotal_inactive_file 500\n",
            },
            1_500,
        ),
        ({}, None),
    ],
)
def test_a_container_s_limit_is_known(files: dict[str, str], free: int | None, tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert container_free(tmp_path) == free
