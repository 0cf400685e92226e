"""What every bench shares: interleaved timing, the conditions of a run, and the record of results.

Times on a shared machine drift; ratios of ways measured turn by turn in one process do not, so those are reported.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

from cellwright.config import versions
from cellwright.files import atomic_path

RESULTS = Path(__file__).parent / "results"


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def interleave(
    ways: Mapping[str, Callable[[], object]], repeats: int, *, clock: str = "wall", is_warm: bool = False
) -> dict[str, list[float]]:
    """Time each way ``repeats`` times, turn by turn (A B A B ...), after a warm-up of each unless ``is_warm``; s.

    With one thread, processor time is what wall time would be if nothing else ran; on a shared machine it is steadier.
    """
    read = CLOCKS[clock]
    for way in () if is_warm else ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin = read()
            way()
            seconds[name].append(read() - begin)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Return median, fastest and slowest, in seconds."""
    return {"median": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}


def ratio(slow: list[float], fast: list[float]) -> float:
    """Return how many times as long ``slow`` takes: the median over turns of the two times of one turn."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def conditions() -> dict[str, object]:
    """Return what a figure depends on: processor, instruction set, threads, load, versions, date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": versions(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def record(path: str | Path, row: Mapping[str, object]) -> None:
    """Append one row to a file of JSON lines; the file is whole at any moment."""
    path = Path(path)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    with atomic_path(path) as draft:
        draft.write_text(before + json.dumps(row, allow_nan=False) + "\n", encoding="utf-8")


def finish(name: str, rows: list[dict[str, object]], asked: argparse.Namespace) -> None:
    """Print the rows as one JSON line with the conditions, and keep it in ``bench/results`` where asked."""
    line = {"bench": name, "conditions": conditions() | {"clock": asked.clock}, "rows": rows}
    print(json.dumps(line))
    if asked.record:
        record(RESULTS / f"{name}.jsonl", line)


def has_fast_bfloat16() -> bool:
    """Whether this processor computes bfloat16 itself; where it does not, PyTorch does so in software, far slower."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except AttributeError:
        return False


def parser(description: str, *, repeats: int = 7) -> argparse.ArgumentParser:
    """Return an argument parser with the options that every bench has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--repeats", type=int, default=repeats, help="turns of each way")
    options.add_argument("--threads", type=int, default=1, help="threads of torch")
    options.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="which time is taken")
    options.add_argument("--record", action="store_true", help="append the result to bench/results")
    return options
