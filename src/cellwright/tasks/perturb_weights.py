"""Which weights of a cell model move when it learns perturbations: the ways of `cellwright.tasks.finetuning`.

What is new in the network (affine head, condition flags, words of perturbations) is trained in every mode. In a table
that only grew, modes probe, blocks and lora train the rows that are new and leave the others bit for bit as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from cellwright.nn.lora import LoraConfig, merge_lora
from cellwright.tasks.finetuning import SPARING, choose_trained

NEW_PARTS = ("value_head", "condition")
"""Parts that are trained in every mode, whether or not they were there before."""


@contextmanager
def opened_weights(
    network: Any, mode: str, new_rows: Mapping[str, int], *, lora: LoraConfig, blocks: Collection[int], seed: int
) -> Iterator[int]:
    """Let gradients reach what a mode trains, in place, while the block runs; low-rank changes are folded in after it.

    Parameters
    ----------
    network
        To be trained in the block.
    mode
        full | lora | probe | blocks | scratch, see `cellwright.tasks.perturb_cells.CellPerturbConfig`.
    new_rows
        Tensors with numbers that no training has seen -> the first row that has them.
    lora
        Adapters of mode lora.
    blocks
        Blocks that mode blocks trains.
    seed
        That they are drawn from.

    Yields
    ------
    int: how many parameters are trained; rows of a table that stay as they are do not count.
    """
    first_row = dict(new_rows)
    first_row |= {name: 0 for name, _ in network.named_parameters() if name.split(".")[0] in NEW_PARTS}
    choose_trained(network, mode, lora=lora, blocks=blocks, unlearnt=first_row, seed=seed)
    grown = [(weight, first_row[name]) for name, weight in network.named_parameters() if first_row.get(name)]
    grown = grown if mode in SPARING else []
    hooks = [weight.register_hook(_from_row(first)) for weight, first in grown]
    num_still = sum(first * weight[0].numel() for weight, first in grown)
    try:
        yield sum(weight.numel() for weight in network.parameters() if weight.requires_grad) - num_still
    finally:
        for hook in hooks:
            hook.remove()
        merge_lora(network)
        network.requires_grad_(True)


def _from_row(first: int) -> Callable[[Tensor], Tensor]:
    """Return a hook that keeps gradients from the rows before ``first``; Adam leaves rows without any as they are."""

    def hook(gradient: Tensor) -> Tensor:
        kept = gradient.clone()
        kept[:first] = 0
        return kept

    return hook


def keep_norms(network: nn.Module, mode: str) -> None:
    """Leave the running means of batch norms alone where the rest of the network stays as it is."""
    for module in network.modules() if mode in SPARING else ():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
