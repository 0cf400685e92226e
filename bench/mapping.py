"""A large reference index: building, writing, opening and searching it, exactly and with inverted lists.

Cells are made up: 400 groups on a curved sheet of 12 directions in 64 dimensions, with noise, scaled to length 1.
Queries are drawn from the same law. Recall is the share of the exact ten nearest that approximate search finds.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timing import finish, parser

from cellwright.tasks.mapping import IndexConfig, Labels, build_index, load_index, map_cells

NUM_GROUPS, DIRECTIONS, NOISE = 400, 12, 0.15


def make_places(num: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw cells ``[n, width]``, float32, and their groups; the law is the same for every seed."""
    law = np.random.default_rng(0)
    corner_kd = law.normal(0, 1, (NUM_GROUPS, DIRECTIONS)).astype(np.float32)
    sheet_d = law.normal(0, 1, (2, DIRECTIONS, width)).astype(np.float32)
    generator = np.random.default_rng(seed)
    code_n = generator.integers(0, NUM_GROUPS, num)
    place_nd = corner_kd[code_n] + generator.normal(0, 0.7, (num, DIRECTIONS)).astype(np.float32)
    x_nd = place_nd @ sheet_d[0] + np.tanh(place_nd) @ sheet_d[1]
    x_nd += NOISE * x_nd.std() * generator.normal(0, 1, x_nd.shape).astype(np.float32)
    return x_nd / np.linalg.norm(x_nd, axis=1, keepdims=True), code_n


def timed(action):
    """Return what an action gives, and its seconds."""
    begin = time.perf_counter()
    found = action()
    return found, time.perf_counter() - begin


def main() -> None:
    options = parser(__doc__, repeats=1)
    options.add_argument("--cells", type=int, default=1_000_000, help="cells of the reference")
    options.add_argument("--queries", type=int, default=5000, help="cells mapped, a fifth of them exactly too")
    options.add_argument("--width", type=int, default=64, help="numbers a cell")
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    import faiss

    faiss.omp_set_num_threads(asked.threads)
    x_md, code_m = make_places(asked.cells, asked.width, 1)
    query_nd, _ = make_places(asked.queries, asked.width, 2)
    few_nd = query_nd[: max(asked.queries // 5, 1)]
    labels = {"group": Labels(code_m=code_m, names=tuple(f"group {k}" for k in range(NUM_GROUPS)))}
    rows, exact = [], None
    for method in ("approximate", "exact"):
        index, build = timed(lambda m=method: build_index(x_md, labels, config=IndexConfig(method=m)))
        with tempfile.TemporaryDirectory() as folder:
            _, write = timed(lambda i=index, f=folder: i.save(Path(f) / "index"))
            size = sum(path.stat().st_size for path in (Path(folder) / "index").iterdir())
            index, reopen = timed(lambda f=folder: load_index(Path(f) / "index"))
        asked_nd = query_nd if method == "approximate" else few_nd
        mapped, search = timed(lambda i=index, q=asked_nd: map_cells(i, q))
        found_nk = mapped.neighbor_nk[: len(few_nd)]
        row = {
            "method": method,
            "cells": asked.cells,
            "width": asked.width,
            "seconds_build": round(build, 2),
            "seconds_write": round(write, 2),
            "seconds_open": round(reopen, 2),
            "seconds_per_1000_queries": round(1000 * search / len(asked_nd), 3),
            "megabytes_on_disk": round(size / 1e6, 1),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        }
        if method == "approximate":
            approximate_nk = found_nk
        else:
            exact = found_nk
            shared = [len(set(a) & set(b)) / len(a) for a, b in zip(approximate_nk, exact, strict=True)]
            rows[0]["recall"] = round(float(np.mean(shared)), 4)
        rows.append(row)
        print(row, flush=True)
        del index, mapped
    finish("mapping", rows, asked)


if __name__ == "__main__":
    main()
