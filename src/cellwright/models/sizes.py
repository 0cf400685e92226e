"""How large a network may be: bounds of its record, and whether it fits into this machine, told before it is built."""

from __future__ import annotations

import os

MOST_LAYERS = 256
MOST_WIDTH = 1 << 16
MOST_HEADS = 1024
"""No network of this field is near these; a record beyond them is a slip, and is refused before anything is built."""
MOST_OF_MEMORY = 0.5
"""Part of the machine's memory that weights may take: beside them there are cells, and in training three times more."""


def check_fits(num_weights: int, what: str, memory: int | None = None) -> None:
    """Refuse a network whose weights would take more than half of the machine's memory.

    Parameters
    ----------
    num_weights
        Numbers in them, four bytes each.
    what
        How the message calls the network.
    memory
        Bytes of memory; ``None`` = this machine's.

    Raises
    ------
    ValueError
        Naming weights, size and the machine's memory.
    """
    memory = machine_memory() if memory is None else memory
    size = 4 * num_weights
    if memory and size > MOST_OF_MEMORY * memory:
        raise ValueError(
            f"{what} of about {num_weights:,} weights takes {size / 2**30:,.1f} GiB, more than half of this machine's "
            f"{memory / 2**30:,.1f} GiB; lower its width or layers, or keep fewer genes"
        )


def machine_memory() -> int:
    """Return bytes of memory of this machine, 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
