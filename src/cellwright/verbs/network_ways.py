"""The ways in which `grn` ranks targets: by vectors of genes, or by attention in cells of two conditions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from cellwright.config import Config, did_you_mean, some_of
from cellwright.models import Model
from cellwright.tasks.inference import InferenceOptions

if TYPE_CHECKING:
    from cellwright.data.cells import Cells
    from cellwright.data.perturbations import Perturbations
    from cellwright.tasks.gene_features import GeneTable
    from cellwright.tasks.grn import RankedTargets


class NetworkOptions(Config):
    """How a network is made."""

    from_: Literal["vectors", "attention"] = "vectors"
    """vectors: nearness of genes' vectors. attention: how strongly genes attend to the regulator, in cells fed the same
    genes."""
    embedding: Literal["context", "table"] = "context"
    """context: mean state of a gene in the cells that express it. table: the model's own vector, before any cell."""
    min_cells: int = Field(10, ge=1)
    """Genes expressed in fewer cells are left out."""
    num_targets: int = Field(100, ge=1)
    """Targets listed for each regulator."""
    min_targets: int = Field(10, ge=1)
    """Regulators with fewer known targets among the genes are not scored."""
    modules: bool = False
    """Find gene modules, also without gene sets. Needs leidenalg."""
    resolution: float = Field(5.0, gt=0)
    """Of gene modules: higher = more, smaller ones."""
    cells: bool = False
    """Also write the cells, with how strongly each uses the modules, as cells.h5ad."""
    condition: str | None = None
    """attention: column of obs that says what was done to the cells; unset = all cells are of one kind, or found by its
    name where --control or --perturbed is given."""
    control: str | None = None
    """attention: what untreated cells are called there; unset = found (control, ctrl, non-targeting, ...)."""
    perturbed: str | None = None
    """attention: condition whose cells are held against controls; unset = for each regulator, the cells in which it
    alone was perturbed."""
    setting: Literal["difference", "perturbed", "control"] = "difference"
    """attention: ranking that is listed first, where there are two conditions: perturbed minus control, or one."""
    attention_layer: int = -1
    """attention: layer that is looked at, from 0; -1 = the last."""
    num_genes: int = Field(1200, ge=2)
    """attention: most variable genes that cells are fed; regulators come on top."""
    num_cells: int = Field(300, ge=2)
    """attention: most cells of each condition, drawn by seed."""

    @property
    def has_conditions(self) -> bool:
        """Whether cells of two conditions are compared."""
        return any(value is not None for value in (self.condition, self.control, self.perturbed))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ways:
    """Rankings of the same genes for the same regulators, and what they can be held against."""

    rankings: dict[str, RankedTargets]
    """Short name -> ranking, the main one first; empty without regulators."""
    what: dict[str, str]
    """Short name -> one line."""
    known: dict[str, np.ndarray]
    """Regulator -> bool ``[g]``: known targets; empty where none were given."""
    genes: tuple[str, ...]
    table: GeneTable | None = None
    """Vectors of the genes, where they were made."""
    control: np.ndarray | None = None
    """Rows of the control cells."""
    perturbed: dict[str, np.ndarray] = field(default_factory=dict)
    """Regulator -> rows of its perturbed cells."""
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


class Asker:
    """A model, its cells, and what was asked for; what there is to warn of is added to the cells' contract."""

    def __init__(self, model: Model, source: Cells, config: NetworkOptions, run: InferenceOptions):
        self.model, self.source, self.config, self.run = model, source, config, run

    def by_vectors(self, asked: Sequence[str], targets: Mapping[str, frozenset[str]] | None) -> Ways:
        """Rank by the cosine of vectors of genes that enough cells express."""
        from cellwright.tasks.grn import rank_targets

        start = time.perf_counter()
        table = self._table()
        seconds = {"gene vectors": time.perf_counter() - start}
        known = self._known(asked, targets, table.genes)
        names = [name for name in asked if name in set(table.genes)] or list(known)
        if asked and not names:
            raise ValueError(
                f"none of the {len(asked)} regulators ({', '.join(asked[:3])}) is among the {len(table.genes):,} genes "
                f"that {self.config.min_cells} cells express; give other names, or lower min_cells"
            )
        names = [*dict.fromkeys([*names, *known])]
        kind = self.config.embedding
        return Ways(
            rankings={kind: rank_targets(table, names)} if names else {},
            what={kind: f"cosine of {table.what}"},
            known=known,
            genes=table.genes,
            table=table,
            notes=(f"{len(table.genes):,} genes expressed in at least {self.config.min_cells} cells.",),
            seconds=seconds,
        )

    def by_attention(self, asked: Sequence[str], targets: Mapping[str, frozenset[str]] | None) -> Ways:
        """Rank by how strongly genes attend to regulators, in all cells or in those of two conditions."""
        from cellwright.tasks.attention import fed_genes

        config, start = self.config, time.perf_counter()
        if strange := [name for name in asked if name not in self.model.vocab.genes]:
            near = did_you_mean(strange[0], self.model.vocab.genes)
            raise ValueError(f"regulator {strange[0]!r} is not in the model's vocabulary{near}")
        control, perturbed = self._conditions(asked) if config.has_conditions else (None, {})
        names = list(perturbed) or list(asked)
        rows = np.arange(len(self.source)) if control is None else np.unique([*control, *self._joined(perturbed)])
        genes = fed_genes(self.source.select(rows), names, num_genes=config.num_genes, min_cells=config.min_cells)
        known = self._known(names, targets, genes)
        names = names or list(known)
        cells = self._drawn(rows) if control is None else control
        ranked, what = self._rank_attention(names, genes, cells, perturbed)
        sizes = f"{len(cells)} cells" if control is None else f"{len(cells)} control cells"
        if perturbed:
            counts = sorted({len(rows) for rows in perturbed.values()})
            span = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
            sizes += f", {span} perturbed ones for each of {len(names)} regulators"
        return Ways(
            rankings=ranked,
            what=what,
            known=known,
            genes=genes,
            control=control,
            perturbed=perturbed,
            notes=(f"Every cell was fed the same {len(genes):,} genes; {sizes}.",),
            seconds={"attention": time.perf_counter() - start},
        )

    def _rank_attention(
        self, names: list[str], genes: tuple[str, ...], cells: np.ndarray, perturbed: dict[str, np.ndarray]
    ) -> tuple[dict[str, RankedTargets], dict[str, str]]:
        from cellwright.tasks.grn import without_self

        control_rg = self._ranks(cells, genes, names)
        found, what = {"cells": control_rg}, {"cells": "attention of each gene to the regulator, in all cells"}
        if perturbed:
            perturbed_rg = np.empty_like(control_rg)
            for rows, some in _same_rows(perturbed):
                perturbed_rg[[names.index(name) for name in some]] = self._ranks(rows, genes, some)
            found = {"difference": perturbed_rg - control_rg, "perturbed": perturbed_rg, "control": control_rg}
            what = {
                "difference": "attention to the regulator in perturbed cells minus that in controls",
                "perturbed": "attention of each gene to the regulator, in perturbed cells",
                "control": "attention of each gene to the regulator, in control cells",
            }
            order = sorted(found, key=lambda setting: setting != self.config.setting)
            found = {setting: found[setting] for setting in order}
        return {kind: without_self(names, genes, score_rg) for kind, score_rg in found.items()}, what

    def _ranks(self, rows: np.ndarray, genes: tuple[str, ...], names: Sequence[str]) -> np.ndarray:
        from cellwright.tasks.attention import attention_ranks

        cells = self.source.select(rows)
        return attention_ranks(
            self.model, cells, genes, regulators=names, layer=self.config.attention_layer, options=self.run
        )

    def _conditions(self, asked: Sequence[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return rows of controls, and regulator -> rows of perturbed cells, so many of each as are used."""
        from cellwright.data.perturbations import read_perturbations

        config = self.config
        found = read_perturbations(
            self.source.obs, column=config.condition, control=config.control, vocab=self.model.vocab
        )
        control = self._drawn(np.flatnonzero(found.code_n < 0))
        if config.perturbed is None:
            return control, self._own_cells(found, asked)
        code = self._condition_code(found)
        rows = self._drawn(np.flatnonzero(found.code_n == code))
        names = list(asked) or [self._name(found, part) for part in found.parts[code] if found.panel_id[part] >= 0]
        if not names:
            raise ValueError(
                f"{config.perturbed!r} perturbs no gene of the model's vocabulary; say which regulators to rank"
            )
        return control, dict.fromkeys(names, rows)

    def _condition_code(self, found: Perturbations) -> int:
        from cellwright.data.perturbations import parse_condition

        wanted = self.config.perturbed
        for name, is_wanted in ((wanted, True), (parse_condition(wanted, found.control), False)):
            kinds = found.names if is_wanted else found.parts
            if name in kinds:
                return kinds.index(name)
        near = did_you_mean(wanted, found.names) or f"; it has {some_of(found.names)}"
        raise ValueError(f"no perturbed cells {wanted!r} in column {found.column!r}{near}")

    def _own_cells(self, found: Perturbations, asked: Sequence[str]) -> dict[str, np.ndarray]:
        own = {
            self._name(found, parts[0]): self._drawn(np.flatnonzero(found.code_n == code))
            for code, parts in enumerate(found.parts)
            if len(parts) == 1 and found.panel_id[parts[0]] >= 0
        }
        kept = {name: rows for name, rows in own.items() if not asked or name in asked}
        if not kept:
            whose = f"the {len(asked)} regulators" if asked else "the model's genes"
            raise ValueError(
                f"column {found.column!r}: none of {whose} was perturbed alone; name a condition (--perturbed) or "
                "other regulators"
            )
        return kept

    def _name(self, found: Perturbations, part: str) -> str:
        return self.model.vocab.tokens[found.panel_id[part]]

    def _drawn(self, rows: np.ndarray) -> np.ndarray:
        """Return at most so many of these rows as are used, drawn by seed."""
        return np.sort(np.random.default_rng(self.run.seed).permutation(rows)[: self.config.num_cells])

    @staticmethod
    def _joined(perturbed: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([*perturbed.values()])

    def _known(
        self, asked: Sequence[str], targets: Mapping[str, frozenset[str]] | None, genes: Sequence[str]
    ) -> dict[str, np.ndarray]:
        from cellwright.tasks.grn import scorable

        if targets is None:
            return {}
        wanted = {name: some for name, some in targets.items() if not asked or name in asked}
        return scorable(wanted, genes, min_targets=self.config.min_targets)

    def _table(self) -> GeneTable:
        """Return the vectors of genes that enough cells express."""
        from cellwright.tasks.gene_features import GeneTable, ModelContexts, model_gene_table

        num_v = np.zeros(len(self.model.vocab), np.int64)
        for start in range(0, len(self.source), 4096):
            cells = self.source.read(np.arange(start, min(start + 4096, len(self.source))))
            num_v += np.bincount(cells.gene_z[cells.value_z > 0], minlength=len(num_v))
        kept = [gene for gene in self.model.vocab.genes if num_v[self.model.vocab.id(gene)] >= self.config.min_cells]
        if len(kept) < 2:
            raise ValueError(
                f"{len(kept)} genes of the model are expressed in {self.config.min_cells} cells; lower min_cells, or "
                "give more cells"
            )
        if self.config.embedding == "table":
            whole = model_gene_table(self.model)
            return GeneTable(tuple(kept), whole.take(kept), whole.what)
        contexts, rows = ModelContexts(self.model, self.source, kept, self.run), np.arange(len(self.source))
        if (left_out := contexts.left_out(rows)) is not None:
            self.source = self.source.with_warning(left_out.line())
        return contexts.mean(rows)


def _same_rows(perturbed: Mapping[str, np.ndarray]) -> list[tuple[np.ndarray, list[str]]]:
    """Put together regulators that are ranked by the same cells, so that these run once."""
    found: dict[bytes, tuple[np.ndarray, list[str]]] = {}
    for name, rows in perturbed.items():
        found.setdefault(rows.tobytes(), (rows, []))[1].append(name)
    return list(found.values())
