"""The command that makes cells."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from cellwright.commands.saying import say
from cellwright.config import Config
from cellwright.models import Model
from cellwright.tasks.generate import GenerateConfig
from cellwright.tasks.inference import MachineOptions
from cellwright.verbs import FillConfig, ModelOptions, ReadOptions


class MakerOptions(ModelOptions, MachineOptions):
    """Which model is opened, and where it runs."""

    max_genes: int | None = None
    """Most genes written a cell; unset = what the model was built for (models of sentences)."""


class FillOptions(ReadOptions):
    """What unknown genes of DATA are filled in from, and how (models that fill in)."""

    known_genes: str | None = None
    """Genes that are known of every cell, with commas between, or a file with one a line."""
    known_fraction: float | None = None
    """Known part of each cell's genes, 0 .. 1, drawn at random."""
    from_embedding: bool = False
    """Start from the embedding of each cell of DATA, and no gene."""
    start: str = FillConfig.model_fields["start"].default
    """What cells of a kind (--prompt) start from: mean (of the embeddings of DATA's cells of that kind) | cells."""
    only: str | None = None
    """Genes to fill in, with commas between, or a file with one a line; unset = all that are not known."""
    steps: int = FillConfig.model_fields["steps"].default
    """Steps K: in each, 1/K of the unknown genes join the known ones."""
    order: str = FillConfig.model_fields["order"].default
    """Which join first: confident (smallest error expected by a trained head) | agreement | gate | random | fixed."""

    def filling(self) -> FillConfig:
        """Return the options as the verb takes them."""
        own = self.model_dump(include=set(FillConfig.model_fields) - {"known_genes", "only"})
        reading = self.model_dump(include=set(ReadOptions.model_fields))
        lists = {name: _genes(getattr(self, name), name) for name in ("known_genes", "only")}
        return FillConfig.read(own | lists | {"reading": reading}, "bad option")


def generate(
    model: str,
    data: Path | None = None,
    *,
    prompt: list[str] | None = None,
    out: Path,
    num_cells: int = 1,
    force: list[str] | None = None,
    which: MakerOptions,
    how: GenerateConfig,
    fill: FillOptions,
) -> None:
    """Make cells, written by a model of sentences or filled in by one that predicts unknown genes; write them to OUT.

    Parameters
    ----------
    model
        Official checkpoint folder or file, or cellwright checkpoint or run folder, that was trained to make cells.
    data
        For a model that fills in: cells whose unknown genes are wanted, or that --prompt speaks of.
    prompt
        What they are: organ=Heart,cell_type="B cell"; several kinds by repeating it. Of a model that fills in: columns
        of DATA's obs.
    out
        File to write: values in X, the prompt or DATA's columns in obs, a record in uns["cellwright"].
    num_cells
        Cells of each kind.
    force
        Gene that every cell is given, and its level or bin: CD3D=8, or CD3D=8,CD19=0 (0 = silent); may be repeated.
    """
    from cellwright import verbs
    from cellwright.data.write import check_out, write_h5ad

    check_out(data, out)
    opened = verbs.open_model(model, which.vocab, key=which.key)
    _check_options(opened, data, which, how, fill)
    is_filled = opened.family.decoding == "unmask"
    made = verbs.generate(
        opened,
        data,
        prompt=[pairs(text, "--prompt") for text in prompt or []],
        num_cells=num_cells,
        seed=how.seed,
        force=_levels(force or []),
        config=fill.filling() if is_filled else how,
        max_genes=which.max_genes,
        run=MachineOptions(**which.model_dump(include=set(MachineOptions.model_fields))),
    )
    write_h5ad(made, out)
    if is_filled:
        num_filled = int((made.layers["step"] > 0).sum())
        say([f"wrote {out}: {made.n_obs} cells, {num_filled:,} values of {made.n_vars} genes filled in"])
    else:
        num_genes = int(np.median(made.X.getnnz(axis=1)))
        say([f"wrote {out}: {made.n_obs} cells, {num_genes} genes in the median one"])


def _check_options(
    opened: Model, data: Path | None, which: MakerOptions, how: GenerateConfig, fill: FillOptions
) -> None:
    """Refuse options that are not for this kind of model."""
    if opened.family.decoding == "unmask":
        strange = _changed(how, {"seed"}) + (["max_genes"] if which.max_genes is not None else [])
        kind = "writes sentences"
    else:
        strange, kind = _changed(fill) + (["DATA"] if data is not None else []), "fills in unknown genes"
    if strange:
        first = strange[0] if strange[0].isupper() else f"--{strange[0].removeprefix('is_').replace('_', '-')}"
        raise ValueError(f"{first} is for a model that {kind}, and {opened.family.title} is none; leave it out")


def _changed(config: Config, spared: set[str] = frozenset()) -> list[str]:
    """Return the fields that are not as they are when nothing is said."""
    plain = type(config)()
    names = [name for name in type(config).model_fields if name not in spared]
    return [name for name in names if getattr(config, name) != getattr(plain, name)]


def _genes(text: str | None, name: str) -> tuple[str, ...]:
    """Read names with commas between them, or a file with one a line."""
    if text is None:
        return ()
    is_file = "," not in text and Path(text).is_file()
    lines = Path(text).read_text(encoding="utf-8-sig").splitlines() if is_file else text.split(",")
    names = tuple(dict.fromkeys(item for line in lines if (item := line.split("#")[0].strip())))
    if not names:
        raise ValueError(f"--{name.replace('_', '-')} {text!r} names no gene")
    return names


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
