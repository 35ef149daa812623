"""Keeps memory that one pass frees for the next one, where the C library would give it back; and how much it was."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

# Numbers of `mallopt` in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
ANY = 2**30
"""Bytes: more than any one tensor of a batch."""
OF_BATCHES = 2**26
"""Bytes, for training heads: a batch's tensors stay for the next one, blocks of streamed rows go back when freed."""


def keep_freed_memory(largest: int = ANY) -> bool:
    """Asks glibc to keep blocks of up to `largest` bytes that this process frees; False under another C library.

    A layer's activations of a few megabytes are allocated and freed again by every operation. By default glibc hands
    such blocks back and has the kernel map and zero them again. Measured on SmolLM2-135M, two cores, float32: 80,000
    page faults a batch of 1,024 tokens without this and none with it, and 5 to 10 % of the time. What the process
    holds is what it needed at its peak, as before.

    It can't be taken back, so it is for commands and worker processes, and a library's caller decides.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, largest) and libc.mallopt(M_TRIM_THRESHOLD, ANY))


def peak_resident() -> int | None:
    """The most bytes of main memory that this process has held; None where the system has no `/proc`.

    What `getrusage` says includes the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


# Files of a container's control group, versions 2 and 1: its limit, what it uses, and the line of `memory.stat` with
# what it holds of files and gives back by itself.
_GROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def container_free(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the container leaves this process; None where nothing limits them. psutil knows the machine alone."""
    for limit, used, stat, reclaimed in _GROUPS:
        try:
            most, now = (int((root / name).read_text()) for name in (limit, used))
            lines = dict(line.split() for line in (root / stat).read_text().splitlines())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        return max(0, most - now + int(lines.get(reclaimed, 0)))
    return None
