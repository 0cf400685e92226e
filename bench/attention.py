"""Attention by layout: packed against padded cells, and generative attention merged against the full table.

Each turn is one forward and one backward pass (or forward alone with --forward) of one layer of 8 heads of 64.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from timing import finish, interleave, parser, ratio, summary

from cellwright.nn.attention import attend, attend_dense
from cellwright.types import Layout

HEADS, HEAD_WIDTH = 8, 64
SPLITS = ((0.5, "half prompt"), (0.25, "quarter prompt"), (0.75, "three quarters prompt"))


def step(function: Callable, layout: Layout, options: argparse.Namespace) -> Callable[[], None]:
    """Return a call that runs ``function`` on fixed random tensors of this layout."""
    generator = torch.Generator().manual_seed(0)
    shape = (*layout.shape, HEADS, HEAD_WIDTH)
    dtype = getattr(torch, options.dtype)
    qkv = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]

    def once() -> None:
        with torch.set_grad_enabled(not options.forward):
            out = function(*qkv, layout)
        if not options.forward:
            torch.autograd.grad(out, qkv, torch.ones_like(out))

    return once


def compare(name: str, slow: tuple, fast: tuple, options: argparse.Namespace) -> dict[str, object]:
    """Time two (label, function, layout) ways of the same work."""
    ways = {label: step(function, layout, options) for label, function, layout in (slow, fast)}
    seconds = interleave(ways, options.repeats, clock=options.clock)
    row: dict[str, object] = {"case": name, "dtype": options.dtype, "is_forward_only": options.forward}
    row |= {label: {key: round(value, 4) for key, value in summary(taken).items()} for label, taken in seconds.items()}
    row["ratio"] = round(ratio(seconds[slow[0]], seconds[fast[0]]), 2)
    return row


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--cells", type=int, default=4, help="cells of a minibatch")
    options.add_argument("--length", type=int, default=1200, help="(median) tokens of a cell")
    options.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    options.add_argument("--forward", action="store_true", help="leave the backward pass out")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    drawn = np.random.default_rng(0).lognormal(np.log(options.length), 0.5, options.cells)
    ragged = Layout(tuple(np.clip(drawn, options.length // 5, 3 * options.length).astype(int).tolist()))
    fill = sum(ragged.lengths) / (max(ragged.lengths) * len(ragged.lengths))
    rows = [
        compare(
            f"ragged, fill {fill:.2f}",
            ("padded", attend, ragged.padded()),
            ("packed", attend, ragged),
            options,
        )
    ]
    for share, name in SPLITS:
        prompt = int(share * options.length)
        layout = Layout((options.length,) * options.cells, None, (prompt,) * options.cells)
        rows.append(
            compare(f"generative, {name}", ("dense", attend_dense, layout), ("merged", attend, layout), options)
        )
    for row in rows:
        (slow, a), (fast, b) = [item for item in row.items() if isinstance(item[1], dict)]
        print(
            f"{row['case']:34s} {slow} {a['median'] * 1e3:8.0f} ms   {fast} {b['median'] * 1e3:8.0f} ms   "
            f"{row['ratio']:5.2f}x"
        )
    finish("attention", rows, options)


if __name__ == "__main__":
    main()
