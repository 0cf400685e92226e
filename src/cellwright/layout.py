"""How the tokens of a minibatch are laid out: padded or packed, and which of them an answer is wanted for.

Minibatches of tokens come in two layouts with the same numbers at the same tokens. *Padded*: one row a cell,
``[n, t]``, pads at the right. *Packed*: all cells one after another in a single row, ``[1, t]``, no pads; only
attention needs to know where a cell ends. `Layout` says which, and moves values between cells and tokens. Axes as in
`cellwright.types`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor


def taken_rows(x_n: Tensor, at: Tensor) -> Tensor:
    """Return ``x_n[at]``, ``[n, ...] -> [*at.shape, ...]``, with gradients that are the same each time.

    Where a row is taken more than once, the backward of ``x_n[at]`` on a CPU adds in the order in which threads come
    by (atomic additions from 32,768 numbers on), so that a busy machine gives other last digits.
    """
    rows_nd = x_n.reshape(len(x_n), -1)
    return torch.nn.functional.embedding(at, rows_nd).reshape(*at.shape, *x_n.shape[1:])


@dataclass(frozen=True, slots=True)
class CellEnd:
    """The first or the last tokens of each cell: those that an answer is wanted for."""

    side: Literal["first", "last"]
    num: int = 1
    """So many of each cell, 1 or more; all of a shorter one."""


@dataclass(frozen=True, eq=False)
class Layout:
    """How the tokens of a minibatch are laid out; see the module's text.

    Parameters
    ----------
    lengths
        Tokens of each cell, pads not counted; at least 1 each.
    width
        Size of the token axis when padded; ``None`` = packed.
    prompt_lengths
        When given, the first so many tokens of each cell are a *prompt* and the rest are *unknown*: a prompt
        token sees the prompt, an unknown token sees the prompt and itself (scGPT's generative attention).
    """

    lengths: tuple[int, ...]
    width: int | None = None
    prompt_lengths: tuple[int, ...] | None = None
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError("every cell of a minibatch needs at least one token")
        if self.width is not None and max(self.lengths) > self.width:
            raise ValueError(f"a cell has {max(self.lengths)} tokens, the padded width is {self.width}")
        if self.prompt_lengths is not None:
            pairs = zip(self.prompt_lengths, self.lengths, strict=True)
            if not all(1 <= prompt <= length for prompt, length in pairs):
                raise ValueError("each prompt needs at least one token and at most the cell's length")

    @property
    def is_packed(self) -> bool:
        """Whether all cells share one row."""
        return self.width is None

    @property
    def num_cells(self) -> int:
        """Number of cells."""
        return len(self.lengths)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the two leading axes of every token tensor."""
        return (1, sum(self.lengths)) if self.width is None else (self.num_cells, self.width)

    @property
    def has_pad(self) -> bool:
        """Whether any position is a pad."""
        return self.width is not None and min(self.lengths) < self.width

    def offsets(self) -> list[int]:
        """Return the ``n + 1`` boundaries of the cells in the packed order."""
        return [0, *accumulate(self.lengths)]

    def _on(self, name: str, device: torch.device | str, make) -> Tensor:
        key = (name, str(device))
        if key not in self._cache:
            self._cache[key] = make().to(device)
        return self._cache[key]

    def is_pad_nt(self, device: torch.device | str = "cpu") -> Tensor:
        """Return bool ``[n, t]``: True where there is no token."""
        if self.width is None:
            return self._on("pad", device, lambda: torch.zeros(self.shape, dtype=torch.bool))
        at_t = torch.arange(self.width)
        return self._on("pad", device, lambda: at_t[None] >= torch.tensor(self.lengths)[:, None])

    def is_prompt_nt(self, device: torch.device | str = "cpu") -> Tensor:
        """Return bool ``[n, t]``: True at prompt tokens (all real tokens when there are no unknown ones)."""
        prompts = self.prompt_lengths if self.prompt_lengths is not None else self.lengths

        def make() -> Tensor:
            if self.width is not None:
                return torch.arange(self.width)[None] < torch.tensor(prompts)[:, None]
            return self.within_cell() < torch.tensor(prompts)[self.cell_of_token()]

        return self._on("prompt", device, make)

    def cell_of_token(self, device: torch.device | str = "cpu") -> Tensor:
        """Return int64 ``[t]``: the cell that each packed token belongs to."""
        return self._on(
            "cell", device, lambda: torch.repeat_interleave(torch.arange(self.num_cells), torch.tensor(self.lengths))
        )

    def within_cell(self, device: torch.device | str = "cpu") -> Tensor:
        """Return int64 ``[n, t]``: the place of each token in its cell, from 0; pads go on counting."""

        def make() -> Tensor:
            if self.width is not None:
                return torch.arange(self.width).expand(self.shape)
            return (torch.arange(self.shape[1]) - torch.tensor(self.offsets()[:-1])[self.cell_of_token()])[None]

        return self._on("within", device, make)

    def cu_seqlens(self, device: torch.device | str = "cpu") -> Tensor:
        """Return int32 ``[n + 1]`` cumulative lengths, as variable-length attention kernels take them."""
        return self._on("cu", device, lambda: torch.tensor(self.offsets(), dtype=torch.int32))

    def first(self, x_nt: Tensor) -> Tensor:
        """Take each cell's first token: ``[n, t, ...] -> [n, ...]``."""
        if self.width is not None:
            return x_nt[:, 0]
        return x_nt[0, self._on("first", x_nt.device, lambda: torch.tensor(self.offsets()[:-1]))]

    def last(self, x_nt: Tensor) -> Tensor:
        """Take each cell's last token, pads not counted: ``[n, t, ...] -> [n, ...]``."""
        return x_nt.flatten(0, 1)[self.end(CellEnd("last"), x_nt.device)[1]]

    def end(self, which: CellEnd, device: torch.device | str = "cpu") -> tuple[Layout, Tensor]:
        """Return the packed layout of these tokens, and their places ``[t']`` in ``x_nt.flatten(0, 1)``, int64."""
        short = Layout(tuple(min(length, which.num) for length in self.lengths))

        def make() -> Tensor:
            start_n = (
                torch.tensor(self.offsets()[:-1]) if self.width is None else torch.arange(self.num_cells) * self.width
            )
            if which.side == "last":
                start_n = start_n + torch.tensor(self.lengths) - torch.tensor(short.lengths)
            return (short.spread(start_n) + short.within_cell())[0]

        return short, self._on(f"{which.side} {which.num}", device, make)

    def spread(self, x_n: Tensor) -> Tensor:
        """Give every token its cell's value: ``[n, ...] -> [n, t, ...]`` (padded) or ``[1, t, ...]`` (packed)."""
        if self.width is not None:
            return x_n[:, None].expand(x_n.shape[0], self.width, *x_n.shape[1:])
        return taken_rows(x_n, self.cell_of_token(x_n.device))[None]

    def pad(self, x_nt: Tensor, fill: float | int | bool = 0) -> Tensor:
        """Turn a packed tensor ``[1, t, ...]`` into a padded one ``[n, longest, ...]``."""
        if self.width is not None:
            return x_nt
        out_nt = x_nt.new_full((self.num_cells, max(self.lengths), *x_nt.shape[2:]), fill)
        out_nt[~self.padded().is_pad_nt(x_nt.device)] = x_nt[0]
        return out_nt

    def pack(self, x_nt: Tensor) -> Tensor:
        """Turn a padded tensor ``[n, t, ...]`` into a packed one ``[1, t, ...]``, pads left out."""
        return x_nt if self.width is None else x_nt[~self.is_pad_nt(x_nt.device)][None]

    def padded(self, width: int | None = None) -> Layout:
        """Return the padded twin, as wide as the longest cell unless ``width`` says more."""
        return Layout(self.lengths, width or max(self.lengths), self.prompt_lengths)

    def packed(self) -> Layout:
        """Return the packed twin."""
        return Layout(self.lengths, None, self.prompt_lengths)
