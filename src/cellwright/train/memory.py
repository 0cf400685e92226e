"""How much memory a piece of work took: the highest of it above what was there before it began."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


@dataclass(slots=True)
class PeakMemory:
    """Filled when the work is done."""

    gb: float | None = None
    """GB (1e9 bytes) above what was held before: of the GPU where there is one, else resident memory of the process;
    ``None`` = not measured."""
    highest_gb: float | None = None
    """The same with what was held before."""


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Measure the block: on CUDA what torch allocated, on Linux resident memory, elsewhere nothing.

    Resident memory is counted from what the process held when the block began, after free memory of earlier work was
    given back, so that blocks that follow each other can be compared.
    """
    found = PeakMemory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found.highest_gb = torch.cuda.max_memory_allocated() / 1e9
        found.gb = found.highest_gb - before / 1e9
        return
    before = _begin()
    yield found
    if before is not None:
        found.highest_gb = _status("VmHWM")
        found.gb = max(found.highest_gb - before, 0.0)


def _begin() -> float | None:
    """Forget the highest memory so far and return what is held now; ``None`` where the system does not tell."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")  # the highest so far becomes what is now
        return _status("VmRSS")
    except (OSError, AttributeError, StopIteration):
        return None


def _status(name: str) -> float:
    lines = (_PROCESS / "status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith(f"{name}:"))
