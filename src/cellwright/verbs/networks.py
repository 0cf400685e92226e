"""The verb that makes gene networks: targets of regulators, gene modules, and how both agree with what is known."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.files import atomic_path, sha256_file, write_json
from cellwright.models import Model
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.network_ways import Asker, NetworkOptions, Ways
from cellwright.verbs.opening import check_new
from cellwright.verbs.training import publish
from cellwright.verbs.using import ReadOptions, note, open_data, open_model, provenance

if TYPE_CHECKING:
    from cellwright.data.cells import Cells
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.tasks.grn import RankedTargets
    from cellwright.tasks.modules import Enrichment, ModuleConfig


MODULE_SCORES = "module_scores"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneNetwork:
    """What `grn` found."""

    ranked: RankedTargets | None
    """Targets of the regulators; ``None`` without regulators."""
    rankings: Mapping[str, RankedTargets]
    """Every ranking that was made, by its short name; ``ranked`` is the first of them."""
    modules: tuple[tuple[str, ...], ...]
    """Gene modules, largest first; empty when they were not asked for."""
    module_score_nm: np.ndarray
    """float32 ``[n, modules]``: how strongly each cell uses each module."""
    enrichment: tuple[Enrichment, ...]
    evaluation: Evaluation | None
    """Scores beside baselines, with known targets."""
    record: dict[str, Any]

    def fill(self, adata: Any) -> None:
        """Fill ``adata.obsm["module_scores"]`` and ``adata.uns["cellwright"]["module_scores"]``, genes of each module.

        Raises
        ------
        ValueError
            When no modules were found, or these are other cells.
        """
        if not self.modules or adata.n_obs != len(self.module_score_nm):
            raise ValueError(f"there are scores of {len(self.modules)} modules in {len(self.module_score_nm)} cells")
        adata.obsm[MODULE_SCORES] = self.module_score_nm
        note(adata, MODULE_SCORES, self.module_record())

    def module_record(self) -> dict[str, Any]:
        """Return the genes of each module, for the record beside their scores."""
        return {f"module {m}": list(genes) for m, genes in enumerate(self.modules)} | {"network": self.record}


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
    """Rank targets of regulators, find gene modules, and hold both against what is known.

    Targets are ranked by vectors of genes, or by attention, in all cells or under a perturbation against controls.

    Parameters
    ----------
    adata
        AnnData or path, see `embed`.
    model
        A loaded model, a path, or the name of a shipped one.
    regulators
        Genes whose targets are ranked, or a file with one a line; empty = those of ``targets``, or with conditions the
        perturbed genes.
    targets
        Known targets: regulator -> genes, or a table (.tsv, .csv, .json, also .gz) to score the ranking with.
    gene_sets
        Sets that modules are tested against: name -> genes, or a .gmt file.
    out
        Folder for tables, scores and the report; new or empty.
    config
        By what targets are ranked, how many are listed, whether to find modules; gene sets ask for them too.
    read, run
        How the cells are read, and the model is run; its seed is that of module search, of cells that are drawn, and of
        resampling too.

    Returns
    -------
    `GeneNetwork`.

    Raises
    ------
    ValueError
        When nothing is asked for, no regulator is among the genes, a table cannot be read, or for attention the family
        has none between all genes or the conditions are not there.

    Examples
    --------
    >>> options = NetworkOptions(from_="attention", condition="perturbation", perturbed="STAT1")  # doctest: +SKIP
    >>> cellwright.grn(adata, model, config=options).ranked.top(20)["STAT1"]  # doctest: +SKIP
    """
    from cellwright.data.regulators import read_gene_sets, read_targets
    from cellwright.tasks.modules import ModuleConfig

    config, run = config or NetworkOptions(), run or InferenceOptions()
    if out is not None:
        check_new(out)
    known_targets = None if targets is None else _sets(targets, read_targets)
    sets = None if gene_sets is None else _sets(gene_sets, read_gene_sets)
    asked = _names(regulators)
    has_modules = config.modules or sets is not None
    _check_asked(config, bool(asked) or known_targets is not None, has_modules)
    model = open_model(model)
    source = open_data(adata, model, read)
    asker = Asker(model, source, config, run)
    ways = (asker.by_attention if config.from_ == "attention" else asker.by_vectors)(asked, known_targets)
    source = asker.source
    modules, score_nm, enrichment = (), np.zeros((len(source), 0)), ()
    if has_modules:
        grouping = ModuleConfig(resolution=config.resolution, seed=run.seed)
        modules, score_nm, enrichment = _modules(ways, source, sets, grouping)
    record = provenance(model, source, run) | {"network": config.record(), "genes": len(ways.genes)}
    hashes = {str(path): sha256_file(path) for path in (targets, gene_sets) if isinstance(path, str | Path)}
    evaluation = _evaluate(asker, ways, known_targets, (modules, enrichment), hashes) if ways.known else None
    network = GeneNetwork(
        ranked=next(iter(ways.rankings.values()), None), rankings=ways.rankings, modules=modules,
        module_score_nm=score_nm, enrichment=enrichment, evaluation=evaluation, record=record | {"files": hashes},
    )  # fmt: skip
    if out is not None:
        cells = adata if config.cells else None
        write_network(network, source, out, num_targets=config.num_targets, cells=cells)
    return network


def _check_asked(config: NetworkOptions, has_regulators: bool, has_modules: bool) -> None:
    if config.from_ == "attention" and has_modules:
        raise ValueError("modules are made of vectors; leave modules and gene sets to a run from vectors")
    if config.from_ == "vectors" and config.has_conditions:
        raise ValueError("vectors are those of all cells; conditions are compared by attention (--from attention)")
    if config.cells and not has_modules:
        raise ValueError("cells are written with their module scores; ask for modules too, or leave cells out")
    if not has_regulators and not has_modules and not config.has_conditions:
        raise ValueError("nothing is asked for: give regulators, known targets or gene sets, or ask for modules")


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


def _modules(
    ways: Ways, source: Cells, sets: dict[str, frozenset[str]] | None, config: ModuleConfig
) -> tuple[Any, np.ndarray, Any]:
    """Return modules, their scores in cells, and what they are enriched for."""
    from cellwright.tasks.modules import enrich, find_modules, module_scores

    start = time.perf_counter()
    modules = tuple(find_modules(ways.table, config))
    logcp10k_ng = source.logcp10k(source.vocab.ids(ways.genes))
    score_nm = module_scores(logcp10k_ng, ways.genes, modules, seed=config.seed)
    found = tuple(enrich(modules, sets, ways.genes)) if sets is not None else ()
    ways.seconds["modules"] = time.perf_counter() - start
    return modules, score_nm, found


def _evaluate(
    asker: Asker, ways: Ways, listed: Mapping[str, frozenset[str]], found: Sequence[Any], hashes: dict[str, str]
) -> Evaluation:
    """Score the rankings beside baselines."""
    from cellwright.evaluate.networks import NetworkStudy, evaluate_networks
    from cellwright.tasks.grn import listed_elsewhere

    model, source, by = asker.model, asker.source, asker.config.from_
    names = {kind: " ".join([model.family.title, *([by] if by == "attention" else []), kind]) for kind in ways.rankings}
    return evaluate_networks(
        NetworkStudy(
            title=f"Gene network of {source.contract.title}",
            dataset=source.contract.title,
            model=model,
            source=source,
            rankings={names[kind]: ranked for kind, ranked in ways.rankings.items()},
            what={names[kind]: text for kind, text in ways.what.items()},
            by=by,
            known=ways.known,
            listed_rg=listed_elsewhere(listed, list(ways.known), ways.genes),
            control=ways.control,
            perturbed=[ways.perturbed[name] for name in ways.known] if ways.perturbed else None,
            modules=found[0],
            enrichment=found[1],
            seed=asker.run.seed,
            seconds=ways.seconds,
            hashes=hashes,
            notes=ways.notes,
        )
    )


def write_network(
    network: GeneNetwork, source: Cells, out: str | Path, *, num_targets: int = 100, cells: Any = None
) -> None:
    """Write tables (tab-separated), record, scores and report into a folder that is whole or not there.

    Parameters
    ----------
    source
        Cells that the network was made from.
    num_targets
        Targets listed for each regulator.
    cells
        AnnData or path of the same cells, to be written with their module scores; ``None`` = they are not.
    """
    from cellwright.data.write import write_h5ad

    with atomic_path(out) as draft:
        draft.mkdir(parents=True)
        for kind, ranked in network.rankings.items():
            rows = [
                (name, gene, rank, f"{score:.6g}")
                for name, found in ranked.top(num_targets).items()
                for rank, (gene, score) in enumerate(found, 1)
            ]
            name = "targets.tsv" if ranked is network.ranked else f"targets_{kind}.tsv"
            _write_table(draft / name, ("regulator", "target", "rank", "score"), rows)
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
        if cells is not None:
            uns = {"cellwright": {MODULE_SCORES: network.module_record()}}
            write_h5ad(cells, draft / "cells.h5ad", obsm={MODULE_SCORES: network.module_score_nm}, uns=uns)
        write_json(draft / "grn.json", network.record)
        if network.evaluation is not None:
            publish(network.evaluation, draft)


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
