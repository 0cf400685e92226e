"""Seeded, rank-sharded, resumable minibatches.

The order is a pure function of (seed, epoch); which rows make up step k of rank r follows by arithmetic. So two
integers, the same on every rank, say where an iteration stands, and continuing needs no fast-forward.

All ranks take the same number of steps, and no minibatch is empty. A step deals its rows out in turn: rank r takes
every ``world``-th. When rows are left over for the last step, and too few for every rank, the last two steps share
their rows evenly. Only where even that cannot fill all ranks (batches of one cell, or fewer rows than ranks) are rows
from the start of the order repeated; ``num_repeats`` tells how many. Evaluation that must see each row once there
drops repeats by ``row_n``.

With groups (sequencing batches), every minibatch holds cells of one group, on all ranks of the same one. The rows of a
group are shared evenly among its steps, so that no minibatch is left with a cell or two, and the steps of all groups
are visited in an order drawn anew each epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from cellwright.protocols import CellSource
from cellwright.types import CellBatch


class CellLoader:
    """Minibatches of a source's cells (a `Loader`).

    Parameters
    ----------
    rows
        Positions in ``source`` to visit, each once an epoch.
    batch_size
        Cells a minibatch and rank.
    shuffle
        Visit in an order drawn anew each epoch; otherwise in the order of ``rows``.
    drop_last
        Leave out the rows that do not fill a whole step of all ranks.
    groups
        Code of each of ``rows``: minibatches hold rows of one group only. Nothing is left over, so not with
        ``drop_last``.
    place
        (rank, world): this process among how many; default: asked from ``torch.distributed`` when iteration begins.
    """

    def __init__(
        self,
        source: CellSource,
        rows: np.ndarray,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = False,
        groups: np.ndarray | None = None,
        place: tuple[int, int] | None = None,
    ):
        rows = np.asarray(rows, np.int64)
        if not len(rows):
            raise ValueError("there are no rows to load")
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}; it must be at least 1")
        if place is not None and not 0 <= place[0] < place[1]:
            raise ValueError(f"place = {place}: give (rank, world) with 0 <= rank < world")
        if groups is not None and (len(groups) != len(rows) or drop_last):
            raise ValueError(f"{len(groups)} groups for {len(rows)} rows, drop_last = {drop_last}; give one a row")
        self.source = source
        self.rows = rows
        self._group_rows = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self._place = place
        self._epoch = 0
        self._start = 0  # where the next iteration begins
        self._next = 0  # where the current one stands
        self._refuse_empty()

    def __len__(self) -> int:
        """Return the steps of an epoch, the same for every rank."""
        width = self.batch_size * self._rank_and_world()[1]
        if self._group_rows is not None:
            return int(np.ceil(np.bincount(self._group_rows) / width).sum())
        return len(self.rows) // width if self.drop_last else math.ceil(len(self.rows) / width)

    def __iter__(self) -> Iterator[CellBatch]:
        """Yield the minibatches from where the iteration stands to the end of the epoch."""
        self._refuse_empty()
        rank, world = self._rank_and_world()
        order, bounds = self._arranged(world)
        first, self._start, self._next = self._start, 0, self._start
        for step in range(first, len(bounds) - 1):
            whole = order[bounds[step] : bounds[step + 1]]
            mine = whole[rank::world]
            if not len(mine):  # of a group, only its own rows may be repeated
                mine = order[[rank % len(order)]] if self._group_rows is None else whole[[rank % len(whole)]]
            # told before the batch is handed out: a checkpoint written during the step continues after it
            self._next = step + 1
            yield self.source.read(mine)

    def order(self) -> np.ndarray:
        """Return all rows in the order of the current epoch."""
        if self._group_rows is not None:
            return self._grouped(self._rank_and_world()[1])[0]
        return self.rows[self._permuted(np.random.default_rng([self.seed, self._epoch]))]

    @property
    def num_repeats(self) -> int:
        """Rows that an epoch visits twice so that no rank runs empty."""
        world = self._rank_and_world()[1]
        return int(np.maximum(world - np.diff(self._arranged(world)[1]), 0).sum())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; another epoch than the current one starts at its beginning."""
        if epoch != self._epoch:
            self._epoch, self._start, self._next = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Return epoch and next step, the same on all ranks."""
        return {"epoch": self._epoch, "next": self._next}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next iteration continue where ``state`` was taken; later ones are whole epochs again."""
        self._epoch, self._start = int(state["epoch"]), int(state["next"])
        self._next = self._start

    def _rank_and_world(self) -> tuple[int, int]:
        if self._place is not None:
            return self._place
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1

    def _refuse_empty(self) -> None:
        if not len(self):
            world = self._rank_and_world()[1]
            raise ValueError(
                f"{len(self.rows)} cells make no whole minibatch of {world * self.batch_size}; lower batch_size, or "
                "give more cells"
            )

    def _arranged(self, world: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows in order, and int64 ``[steps + 1]``: step k takes ``order[bounds[k]:bounds[k + 1]]``."""
        return (self.order(), self._bounds(world)) if self._group_rows is None else self._grouped(world)

    def _permuted(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(len(self.rows)) if self.shuffle else np.arange(len(self.rows))

    def _grouped(self, world: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and bounds where every step is of one group."""
        rng = np.random.default_rng([self.seed, self._epoch])
        at_n = self._permuted(rng)
        width, steps = self.batch_size * world, []
        for group in range(self._group_rows.max() + 1):
            mine = at_n[self._group_rows[at_n] == group]
            steps += np.array_split(mine, math.ceil(len(mine) / width))
        if self.shuffle:
            steps = [steps[k] for k in rng.permutation(len(steps))]
        bounds = np.cumsum([0, *map(len, steps)])
        return self.rows[np.concatenate(steps)], bounds

    def _bounds(self, world: int) -> np.ndarray:
        """Return the bounds of the steps where there are no groups."""
        width = self.batch_size * world
        num_steps = len(self)
        bounds = np.minimum(np.arange(num_steps + 1) * width, len(self.rows))
        if 0 < bounds[-1] - bounds[-2] < world and num_steps > 1:
            bounds[-2] = (bounds[-3] + bounds[-1] + 1) // 2
        return bounds
