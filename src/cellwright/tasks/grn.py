"""Gene regulatory networks: rankings of targets from vectors of genes (which stand near a regulator), and their scores.

Sources: scFoundation (Hao et al., Nature Methods 2024: cosine of mean context embeddings, the nearest genes of each
regulator), scGPT (Cui et al., Nature Methods 2024: cosine network of the gene table). Nearness has no direction and no
sign: regulator and target change places, and activation looks like repression. In the notebook published with
scFoundation every regulator received the targets of the first one; here each is ranked by its own vector. Rankings from
attention are in `cellwright.tasks.attention`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellwright.metrics.networks import NETWORK_METRICS
from cellwright.tasks.gene_features import GeneTable
from cellwright.tasks.neighbors import unit_length


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankedTargets:
    """How likely each gene is a target of each regulator, by one method."""

    regulators: tuple[str, ...]
    genes: tuple[str, ...]
    score_rg: np.ndarray
    """float32 ``[r, g]``, higher = likelier; no unit. A regulator's score of itself is -inf."""

    def top(self, num: int) -> dict[str, list[tuple[str, float]]]:
        """Return the ``num`` best genes of each regulator with their scores, best first."""
        order_rg = np.argsort(-self.score_rg, axis=1, kind="stable")[:, :num]
        return {
            name: [(self.genes[g], float(self.score_rg[row, g])) for g in order_rg[row] if self.genes[g] != name]
            for row, name in enumerate(self.regulators)
        }


def rank_targets(embedding: GeneTable, regulators: Sequence[str]) -> RankedTargets:
    """Rank all genes by the cosine of their vector with each regulator's own.

    Raises
    ------
    ValueError
        When no regulator is given, one has no vector, or there are fewer than two genes.
    """
    if not regulators:
        raise ValueError("no regulators were given")
    if len(embedding.genes) < 2:
        raise ValueError(f"{len(embedding.genes)} genes have an embedding; a network needs at least 2")
    unit_gd = unit_length(embedding.value_gd)
    own_rd = GeneTable(embedding.genes, unit_gd, embedding.what).take(regulators)
    return without_self(regulators, embedding.genes, own_rd @ unit_gd.T)


def without_self(regulators: Sequence[str], genes: Sequence[str], score_rg: np.ndarray) -> RankedTargets:
    """Put scores into a ranking in which no regulator is its own target."""
    at = {gene: g for g, gene in enumerate(genes)}
    score_rg = np.array(score_rg, np.float32)
    for row, name in enumerate(regulators):
        score_rg[row, at[name]] = -np.inf
    return RankedTargets(regulators=tuple(regulators), genes=tuple(genes), score_rg=score_rg)


def scorable(
    targets: Mapping[str, frozenset[str]], genes: Sequence[str], *, min_targets: int = 10
) -> dict[str, np.ndarray]:
    """Return regulator -> bool ``[g]``, for regulators among the genes with enough known targets among them.

    Raises
    ------
    ValueError
        When none is left; the message says how many were looked at.
    """
    known = {
        name: np.fromiter((gene in some for gene in genes), bool, len(genes))
        for name, some in targets.items()
        if name in set(genes)
    }
    kept = {
        name: is_target_g for name, is_target_g in known.items() if min_targets <= is_target_g.sum() < len(genes) - 1
    }
    if not kept:
        raise ValueError(
            f"of {len(targets)} regulators with known targets, {len(known)} are among the {len(genes)} genes and none "
            f"has {min_targets} targets there; give more genes or lower min_targets"
        )
    return kept


def listed_elsewhere(
    targets: Mapping[str, frozenset[str]], regulators: Sequence[str], genes: Sequence[str]
) -> np.ndarray:
    """Return int64 ``[r, g]``: how many regulators of the table, this one not counted, have the gene as a target."""
    at = {gene: g for g, gene in enumerate(genes)}
    num_g = np.zeros(len(genes), np.int64)
    own_rg = np.zeros((len(regulators), len(genes)), np.int64)
    rows = {name: row for row, name in enumerate(regulators)}
    for name, some in targets.items():
        columns = [at[gene] for gene in some if gene in at]
        num_g[columns] += 1
        if name in rows:
            own_rg[rows[name], columns] = 1
    return num_g - own_rg


def score_targets(ranked: RankedTargets, known: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Score each regulator's ranking against its known targets; a regulator is not counted among its own targets.

    Returns
    -------
    Metric name -> regulator -> score.
    """
    rows = {name: row for row, name in enumerate(ranked.regulators)}
    scores: dict[str, dict[str, float]] = {name: {} for name in NETWORK_METRICS}
    for regulator, is_target_g in known.items():
        score_g = ranked.score_rg[rows[regulator]]
        is_other_g = np.isfinite(score_g)
        for name, metric in NETWORK_METRICS.items():
            scores[name][regulator] = metric.function(score_g[is_other_g], is_target_g[is_other_g])
    return scores
