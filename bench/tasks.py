"""Time and peak memory of every task, each in a process of its own, through the public verb, on real cells.

    python bench/tasks.py --data FOLDER --record          # all of them: about ten minutes on two quiet cores
    python bench/tasks.py --data FOLDER --only embed grn_vectors
    python bench/tasks.py --data FOLDER --small           # every case at a tenth of its size: does it work?

FOLDER holds the `.h5ad` files that `task_cases.py` names. This is the one bench without a rival: it says what a call
costs on small networks, stages apart as far as the verb tells them, not whether it is quick. Opening data and building
(or shortly pre-training) the network come before the clock starts.

Memory is the highest resident memory of the process while the verb runs (nothing subtracted), beside what the process
held after its imports, and with data and network in memory before the verb was called; it is read from Linux's
``/proc``, since ``getrusage`` begins with what the parent held when it forked. A case that fails is a row with its
error, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from timing import conditions, finish

from cellwright.files import atomic_path
from cellwright.train.memory import peak_memory

ROW = "row: "
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- tasks -->", "<!-- end of tasks -->"


def memory_mb() -> int | None:
    """Return the resident memory of this process in MB; ``None`` = the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next(round(int(line.split()[1]) * 1024 / 1e6) for line in lines if line.startswith("VmRSS:"))


def run_case(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Do a case in this process and return its row."""
    import torch
    from task_cases import CASES, Place

    torch.set_num_threads(asked.threads)
    row: dict[str, Any] = {"case": name, "mb_after_import": memory_mb()}
    with tempfile.TemporaryDirectory() as folder:
        job = CASES[name](Place(data=asked.data, work=Path(folder), is_small=asked.small))
        with peak_memory() as memory:  # of the call alone: what opening took for a while does not count
            row |= {**job.what, "mb_before": memory_mb()}
            begin, processor = time.perf_counter(), time.process_time()
            stages = job.call()
            row["seconds"] = round(time.perf_counter() - begin, 2)
            row["seconds_processor"] = round(time.process_time() - processor, 2)  # of all threads
    row["stages"] = {stage: round(seconds, 2) for stage, seconds in stages.items()}
    if stages:  # scoring, drawing and writing, where the verb does not tell them apart
        row["stages"]["the rest"] = round(max(row["seconds"] - sum(stages.values()), 0.0), 2)
    return row | {"mb_peak": None if memory.highest_gb is None else round(1000 * memory.highest_gb)}


def in_child(name: str, asked: argparse.Namespace, *, is_small: bool) -> dict[str, Any]:
    """Run a case in a fresh process and return its row; one that fails says why."""
    command = [sys.executable, __file__, "--data", str(asked.data), "--child", name, "--threads", str(asked.threads)]
    threads = {name: str(asked.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")}
    done = subprocess.run(
        [*command, *(["--small"] if is_small else [])], capture_output=True, text=True, check=False,
        env=os.environ | threads,
    )  # fmt: skip
    said = [line.removeprefix(ROW) for line in done.stdout.splitlines() if line.startswith(ROW)]
    if done.returncode == 0 and said:
        return json.loads(said[-1])
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return {"case": name, "error": lines[-1] if lines else f"ended with status {done.returncode}"}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a markdown table."""
    lines = [
        "| case | cells x genes | network | seconds (processor) | of these | MB: imports, before, peak |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['case']} | failed: {row['error']} | | | | |")
            continue
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in row["stages"].items() if seconds >= 0.05)
        known = ("case", "data", "cells", "genes", "network", "seconds", "seconds_processor", "stages")
        more = [f"{key.replace('_', ' ')} {row[key]}" for key in row if key not in known and not key.startswith("mb_")]
        memory = ", ".join(f"{row[key]:,}" if row[key] is not None else "?" for key in MEMORY)
        network = "; ".join([row["network"], *more])
        size = f"{row['cells']:,} x {row['genes']:,}"
        seconds = f"{row['seconds']:.1f} ({row['seconds_processor']:.1f})"
        lines.append(f"| {row['case']} | {size} | {network} | {seconds} | {stages} | {memory} |")
    return "\n".join(lines)


MEMORY = ("mb_after_import", "mb_before", "mb_peak")


def said_of(asked: argparse.Namespace) -> str:
    """Return in one sentence where and when the figures were taken."""
    found = conditions()
    where = f"{found['processor']}, {asked.threads} threads of {found['cores']} cores, load {found['load']}"
    return f"Measured {str(found['date'])[:10]} on {where}."


def write_page(text: str) -> None:
    """Put the table into the page of benchmarks, in the place of the one before."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{PAGE} has no place for the table of tasks; it stands between {BEGIN} and {END}")
    with atomic_path(PAGE) as draft:
        draft.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Run the cases asked for, each in a child, and print the rows and a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True, help="folder of the .h5ad files")
    options.add_argument("--only", nargs="+", metavar="CASE", help="cases to run (default: all)")
    options.add_argument("--small", action="store_true", help="a tenth of each case: does it work?")
    options.add_argument("--threads", type=int, default=2, help="threads of torch and numpy")
    options.add_argument("--record", action="store_true", help="append the result to bench/results")
    options.add_argument("--child", help=argparse.SUPPRESS)
    options.set_defaults(clock="wall")
    asked = options.parse_args()
    if asked.child:
        print(ROW + json.dumps(run_case(asked.child, asked)))
        return 0
    import torch
    from task_cases import CASES

    torch.set_num_threads(asked.threads)  # for the record alone
    if strange := sorted(set(asked.only or ()) - set(CASES)):
        options.error(f"no case {strange[0]!r}; there are {', '.join(CASES)}")
    if not asked.small:  # kernels are compiled once and kept on disk: no case is to pay for all
        for name in ("embed", "map_reference_build", "generate_make", "denoise"):
            in_child(name, asked, is_small=True)
    rows = []
    for name in asked.only or CASES:
        rows.append(in_child(name, asked, is_small=asked.small))
        print(rows[-1], file=sys.stderr, flush=True)
    finish("tasks", rows, asked)
    print(table(rows), file=sys.stderr)
    if asked.record and not asked.small and not asked.only:
        write_page(f"{said_of(asked)}\n\n{table(rows)}")
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
