"""The verb that makes gene networks: targets of regulators, gene modules, and how both agree with what is known."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from cellwright.config import Config
from cellwright.files import atomic_path, sha256_file, write_json
from cellwright.models import Model
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.training import publish
from cellwright.verbs.using import ReadOptions, open_data, open_model, provenance

if TYPE_CHECKING:
    from cellwright.data.cells import Cells
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.tasks.gene_features import GeneTable
    from cellwright.tasks.grn import RankedTargets
    from cellwright.tasks.modules import Enrichment


class NetworkOptions(Config):
    """How a network is made."""

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneNetwork:
    """What `grn` found."""

    ranked: RankedTargets | None
    """Targets of the regulators; ``None`` without regulators."""
    modules: tuple[tuple[str, ...], ...]
    """Gene modules, largest first; empty when they were not asked for."""
    module_score_nm: np.ndarray
    """float32 ``[n, modules]``: how strongly each cell uses each module."""
    enrichment: tuple[Enrichment, ...]
    evaluation: Evaluation | None
    """Scores beside baselines, with known targets."""
    record: dict[str, Any]


def grn(
    adata: Any,
    model: Model | str | Path,
    *,
    regulators: Sequence[str] | str | Path = (),
    targets: Mapping[str, Iterable[str]] | str | Path | None = None,
    gene_sets: Mapping[str, Iterable[str]] | str | Path | None = None,
    out: str | Path | None = None,
    config: NetworkOptions | None = None,
    read: ReadOptions | None = None,
    run: InferenceOptions | None = None,
) -> GeneNetwork:
    """Rank targets of regulators by the vectors of genes, find gene modules, and hold both against what is known.

    Parameters
    ----------
    adata
        AnnData or path, see `embed`.
    model
        A loaded model, a path, or the name of a shipped one.
    regulators
        Genes whose targets are ranked, or a file with one a line; empty = those of ``targets``.
    targets
        Known targets: regulator -> genes, or a table (.tsv, .csv, .json, also .gz) to score the ranking with.
    gene_sets
        Sets that modules are tested against: name -> genes, or a .gmt file.
    out
        Folder for tables, scores and the report; new or empty.
    config
        Which vectors, how many targets, whether to find modules; gene sets ask for them too.
    read, run
        How the cells are read, and the model is run; its seed is that of module search and resampling too.

    Returns
    -------
    `GeneNetwork`.

    Raises
    ------
    ValueError
        When nothing is asked for, no regulator is among the genes, or a table cannot be read.
    """
    from cellwright.data.regulators import read_gene_sets, read_targets

    config, run = config or NetworkOptions(), run or InferenceOptions()
    if out is not None:
        check_new(out)
    known_targets = None if targets is None else _sets(targets, read_targets)
    sets = None if gene_sets is None else _sets(gene_sets, read_gene_sets)
    asked = _names(regulators)
    has_modules = config.modules or sets is not None
    if not asked and known_targets is None and not has_modules:
        raise ValueError("nothing is asked for: give regulators, known targets or gene sets, or ask for modules")
    model = open_model(model)
    source = open_data(adata, model, read)
    work = _Work(model, source, config, run)
    ranked, known = work.rank(asked, known_targets)
    modules, score_nm, enrichment = work.find_modules(sets) if has_modules else ((), np.zeros((len(source), 0)), ())
    record = provenance(model, source, run) | {"network": config.record(), "genes": len(work.table.genes)}
    hashes = {str(path): sha256_file(path) for path in (targets, gene_sets) if isinstance(path, str | Path)}
    evaluation = work.evaluate(ranked, known, modules, enrichment, hashes) if known else None
    network = GeneNetwork(
        ranked=ranked, modules=modules, module_score_nm=score_nm, enrichment=enrichment, evaluation=evaluation,
        record=record | {"files": hashes},
    )  # fmt: skip
    if out is not None:
        write_network(network, source, out, config)
    return network


def check_new(out: str | Path) -> None:
    """Refuse a folder that holds files."""
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds files; choose a folder that is new or empty")


def _sets(given: Any, read: Any) -> dict[str, frozenset[str]]:
    return read(given) if isinstance(given, str | Path) else {name: frozenset(genes) for name, genes in given.items()}


def _names(given: Sequence[str] | str | Path) -> list[str]:
    if not isinstance(given, str | Path):
        return list(dict.fromkeys(given))
    path = Path(given)
    if not path.is_file():
        raise FileNotFoundError(f"no file of regulators {path}; give a file with one gene a line")
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    return list(dict.fromkeys(line for line in lines if line))


class _Work:
    """A model, its cells and the vectors of their genes."""

    def __init__(self, model: Model, source: Cells, config: NetworkOptions, run: InferenceOptions):
        self.model, self.source, self.config, self.seed = model, source, config, run.seed
        self.seconds: dict[str, float] = {}
        start = time.perf_counter()
        self.table = self._table(run)
        self.seconds["gene vectors"] = time.perf_counter() - start

    def _table(self, run: InferenceOptions) -> GeneTable:
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
        return ModelContexts(self.model, self.source, kept, run).mean(np.arange(len(self.source)))

    def rank(
        self, asked: list[str], targets: dict[str, frozenset[str]] | None
    ) -> tuple[RankedTargets | None, dict[str, np.ndarray]]:
        """Return the ranking and, where targets are known, what it is held against."""
        from cellwright.tasks.grn import rank_targets, scorable

        genes = self.table.genes
        known: dict[str, np.ndarray] = {}
        if targets is not None:
            wanted = {name: some for name, some in targets.items() if not asked or name in asked}
            known = scorable(wanted, genes, min_targets=self.config.min_targets)
        names = [name for name in asked if name in set(genes)] or list(known)
        if asked and not names:
            raise ValueError(
                f"none of the {len(asked)} regulators ({', '.join(asked[:3])}) is among the {len(genes):,} genes that "
                f"{self.config.min_cells} cells express; give other names, or lower min_cells"
            )
        names = [*dict.fromkeys([*names, *known])]
        return (rank_targets(self.table, names) if names else None), known

    def find_modules(self, sets: dict[str, frozenset[str]] | None) -> tuple[Any, np.ndarray, Any]:
        """Return modules, their scores in cells, and what they are enriched for."""
        from cellwright.tasks.modules import ModuleConfig, enrich, find_modules, module_scores

        start = time.perf_counter()
        config = ModuleConfig(resolution=self.config.resolution, seed=self.seed)
        modules = tuple(find_modules(self.table, config))
        logcp10k_ng = self.source.logcp10k(self.model.vocab.ids(self.table.genes))
        score_nm = module_scores(logcp10k_ng, self.table.genes, modules, seed=self.seed)
        found = tuple(enrich(modules, sets, self.table.genes)) if sets is not None else ()
        self.seconds["modules"] = time.perf_counter() - start
        return modules, score_nm, found

    def evaluate(
        self, ranked: Any, known: dict[str, np.ndarray], modules: Any, enrichment: Any, hashes: dict[str, str]
    ) -> Evaluation:
        """Score the ranking beside baselines."""
        from cellwright.evaluate.networks import NetworkStudy, evaluate_networks

        name = f"{self.model.family.title} {self.config.embedding}"
        return evaluate_networks(
            NetworkStudy(
                title=f"Gene network of {Path(self.source.contract.source).name}",
                dataset=Path(self.source.contract.source).name,
                model=self.model,
                source=self.source,
                rankings={name: ranked},
                what={name: f"cosine of {self.table.what}"},
                known=known,
                modules=modules,
                enrichment=enrichment,
                seed=self.seed,
                seconds=self.seconds,
                hashes=hashes,
                notes=(f"{len(self.table.genes):,} genes expressed in at least {self.config.min_cells} cells.",),
            )
        )


def write_network(network: GeneNetwork, source: Cells, out: str | Path, config: NetworkOptions) -> None:
    """Write tables (tab-separated), record, scores and report into a folder that is whole or not there."""
    with atomic_path(out) as draft:
        draft.mkdir(parents=True)
        if network.ranked is not None:
            rows = [
                (name, gene, rank, f"{score:.6g}")
                for name, found in network.ranked.top(config.num_targets).items()
                for rank, (gene, score) in enumerate(found, 1)
            ]
            _write_table(draft / "targets.tsv", ("regulator", "target", "rank", "score"), rows)
        if network.modules:
            rows = [(m, gene) for m, module in enumerate(network.modules) for gene in module]
            _write_table(draft / "modules.tsv", ("module", "gene"), rows)
            head = ("cell", *(f"module {m}" for m in range(len(network.modules))))
            scores = [
                (name, *(f"{value:.6g}" for value in row))
                for name, row in zip(source.obs_names, network.module_score_nm, strict=True)
            ]
            _write_table(draft / "module_scores.tsv", head, scores)
        if network.enrichment:
            names = ("module", "gene_set", "num_shared", "num_module", "num_set", "p_value", "q_value")
            rows = [tuple(getattr(pair, name) for name in names) for pair in network.enrichment]
            _write_table(draft / "enrichment.tsv", names, rows)
        write_json(draft / "grn.json", network.record)
        if network.evaluation is not None:
            publish(network.evaluation, draft)


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
