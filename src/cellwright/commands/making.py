"""The command that makes cells."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from cellwright.commands.saying import say
from cellwright.tasks.generate import GenerateConfig
from cellwright.tasks.inference import MachineOptions
from cellwright.verbs import ModelOptions


def generate(
    model: str,
    *,
    prompt: list[str],
    out: Path,
    num_cells: int = 1,
    force: list[str] | None = None,
    max_genes: int | None = None,
    which: ModelOptions,
    how: GenerateConfig,
    run: MachineOptions,
) -> None:
    """Make cells of a kind with a model that writes sentences, and write them to OUT.

    Parameters
    ----------
    model
        Official checkpoint folder or file, or cellwright checkpoint or run folder, that was trained to make cells.
    prompt
        What they are: organ=Heart,cell_type="B cell"; several kinds by repeating it.
    out
        File to write: levels 0 .. 1 in X, the prompt in obs, a record in uns["cellwright"].
    num_cells
        Cells of each kind.
    force
        Gene that every cell is given, and its level: CD3D=8, or CD3D=8,CD19=0 (0 = silent); may be repeated.
    max_genes
        Most genes written a cell; unset = what the model was built for.
    """
    from cellwright import verbs
    from cellwright.data.write import check_out, write_h5ad

    check_out(None, out)
    made = verbs.generate(
        verbs.open_model(model, which.vocab, key=which.key),
        prompt=[pairs(text, "--prompt") for text in prompt],
        num_cells=num_cells,
        seed=how.seed,
        force=_levels(force or []),
        config=how,
        max_genes=max_genes,
        run=run,
    )
    write_h5ad(made, out)
    num_genes = int(np.median(made.X.getnnz(axis=1)))
    say([f"wrote {out}: {made.n_obs} cells, {num_genes} genes in the median one"])


def pairs(text: str, option: str) -> dict[str, str]:
    """Read name=value pairs with commas between them; a value may hold commas that no name= follows."""
    pairs: dict[str, str] = {}
    for piece in re.split(r",(?=[^,=]+=)", text):
        name, equals, value = piece.partition("=")
        name, value = name.strip(), value.strip()
        if not (name and equals and value):
            raise ValueError(f"{option} {text!r} is not of the form name=value,name=value")
        if name in pairs:
            raise ValueError(f"{option} {text!r} names {name!r} twice")
        pairs[name] = value
    return pairs


def _levels(texts: list[str]) -> dict[str, int]:
    levels: dict[str, int] = {}
    for text in texts:
        for gene, level in pairs(text, "--force").items():
            if not level.isdecimal():
                raise ValueError(f"--force {text!r}: the level of {gene} is {level!r}, not a whole number")
            levels[gene] = int(level)
    return levels
