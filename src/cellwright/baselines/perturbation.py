"""Simple predictors of what a perturbation does: what a model must beat before its size is worth anything.

Ahlmann-Eltze, Huber and Anders (Nature Methods 22:1657, 2025) found none of five foundation models to beat them;
Csendes et al. (BMC Genomics 26:393, 2025) the same of the plain training mean. All are given what a model is given: the
mean profiles of training perturbations and of the controls that belong to them.

Everything is in mean log expression; an *effect* is the profile of perturbed cells less that of the controls of the
same context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

Parts = tuple[str, ...]
NUM_COMPONENTS = 10
RIDGE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """Perturbations to predict, one a row."""

    parts: tuple[Parts, ...]
    """What is perturbed, in alphabetical order."""
    context_u: np.ndarray
    """int64: code of the context (cell type)."""
    control_ug: np.ndarray
    """float64: mean log expression of the controls of that context, those that may be seen."""

    def __len__(self) -> int:
        return len(self.parts)

    def take(self, at_u: np.ndarray | Sequence[int]) -> Asked:
        """Return these rows."""
        at_u = np.asarray(at_u, np.int64)
        parts = tuple(self.parts[u] for u in at_u)
        return Asked(parts=parts, context_u=self.context_u[at_u], control_ug=self.control_ug[at_u])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profiles:
    """Perturbations whose outcome is known, one a row."""

    asked: Asked
    mean_ug: np.ndarray
    """float64: mean log expression of the perturbed cells."""
    num_cells_u: np.ndarray
    """int64: cells behind each mean."""

    def __post_init__(self):
        if self.mean_ug.shape != self.asked.control_ug.shape or len(self.mean_ug) != len(self.asked.parts):
            raise ValueError(
                f"profiles of shape {self.mean_ug.shape}, controls {self.asked.control_ug.shape}, "
                f"{len(self.asked.parts)} perturbations: one row each is needed"
            )

    def __len__(self) -> int:
        return len(self.asked)

    @property
    def effect_ug(self) -> np.ndarray:
        """float64: profile less controls."""
        return self.mean_ug - self.asked.control_ug

    def take(self, at_u: np.ndarray | Sequence[int]) -> Profiles:
        """Return these rows."""
        at_u = np.asarray(at_u, np.int64)
        rows = {"mean_ug": self.mean_ug[at_u], "num_cells_u": self.num_cells_u[at_u]}
        return replace(self, asked=self.asked.take(at_u), **rows)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """What is known of genes besides the screen."""

    genes: tuple[str, ...] = ()
    """Genes of the panel, in the order of the profiles' columns."""
    panel_at: Mapping[str, int] | None = None
    """Perturbed gene -> its column; genes outside the panel are absent."""
    features: Mapping[str, Mapping[str, np.ndarray]] | None = None
    """Kind of features (gene_sets, model) -> perturbed gene -> vector."""


class PredictEffects(Protocol):
    """Learns from known profiles and predicts the effects asked for."""

    def __call__(self, train: Profiles, asked: Asked, known: Known) -> np.ndarray:
        """Return float64 effects ``[u, g]``."""
        ...


@dataclass(frozen=True, slots=True)
class PerturbationBaseline:
    """One entry of the table."""

    predict: PredictEffects
    what: str


def no_change(train: Profiles, asked: Asked, known: Known) -> np.ndarray:
    """Nothing happens: perturbed cells are like their controls."""
    return np.zeros_like(asked.control_ug)


def mean_effect(train: Profiles, asked: Asked, known: Known) -> np.ndarray:
    """Every perturbation does what training perturbations do on average, each weighing the same."""
    _check(train)
    return np.tile(train.effect_ug.mean(0), (len(asked), 1))


def matching_mean(train: Profiles, asked: Asked, known: Known) -> np.ndarray:
    """Mean effect of what matches best in training.

    The same perturbation in other contexts; else the mean of the single perturbations that a combination is made of, as
    far as they are known; else the mean of all training perturbations.
    """
    _check(train)
    by_parts, effect_ug = _by_parts(train), mean_effect(train, asked, known)
    for u, parts in enumerate(asked.parts):
        found = [by_parts[(part,)] for part in parts if (part,) in by_parts]
        if parts in by_parts:
            effect_ug[u] = by_parts[parts]
        elif found:
            effect_ug[u] = np.mean(found, axis=0)
    return effect_ug


def additive(train: Profiles, asked: Asked, known: Known) -> np.ndarray:
    """Effects of the single perturbations, added up: c + sum of (single - c).

    A part whose single perturbation is not in training counts with the mean effect of the training singles (of all
    training perturbations, where there are no singles).
    """
    _check(train)
    by_parts = _by_parts(train)
    singles = [effect_g for parts, effect_g in by_parts.items() if len(parts) == 1] or list(by_parts.values())
    unknown_g = np.mean(singles, axis=0)
    rows = [np.sum([by_parts.get((part,), unknown_g) for part in parts], axis=0) for parts in asked.parts]
    return np.array(rows).reshape(asked.control_ug.shape)


def bilinear_ridge(train: Profiles, asked: Asked, known: Known) -> np.ndarray:
    """Bilinear ridge as published: perturbed genes are described by their own rows of the gene embedding.

    Genes outside the panel have no row and are described by zeros, which gives the mean effect.
    """
    _check(train)
    gene_gd = _gene_embedding(train)
    panel_at = known.panel_at or {}
    return bilinear(train, asked, gene_gd, {part: gene_gd[at] for part, at in panel_at.items()})


def bilinear_ridge_sets(train: Profiles, asked: Asked, known: Known) -> np.ndarray:
    """Bilinear ridge with perturbed genes described by the gene sets that they are in."""
    _check(train)
    return bilinear(train, asked, _gene_embedding(train), _components((known.features or {}).get("gene_sets", {})))


def bilinear_ridge_model(train: Profiles, asked: Asked, known: Known) -> np.ndarray:
    """Bilinear ridge with perturbed genes described by a model's gene embedding."""
    _check(train)
    return bilinear(train, asked, _gene_embedding(train), _components((known.features or {}).get("model", {})))


def bilinear(
    train: Profiles, asked: Asked, gene_gd: np.ndarray, node: Mapping[str, np.ndarray], *, ridge: float = RIDGE
) -> np.ndarray:
    """Fit ``Y = G K P' + b`` by ridge on both sides and predict effects.

    Y are training effects ``[g, u]``, b their mean over perturbations, ``G`` describes genes and ``P`` perturbations
    (the sum of the vectors of a combination's parts; zeros for a part without a vector). The published code fits
    profiles, which is the same where all have the same controls.

    ``K = (G'G + ridge I)^-1 G' (Y - b) P (P'P + ridge I)^-1``.
    """
    width = len(next(iter(node.values()))) if node else 1
    zero_d = np.zeros(width)

    def describe(rows: Sequence[Parts]) -> np.ndarray:
        return np.array([np.sum([node.get(part, zero_d) for part in parts], axis=0) for parts in rows])

    train_ud, asked_ud = describe(train.asked.parts), describe(asked.parts)
    mean_g = train.effect_ug.mean(0)
    left_dg = np.linalg.solve(gene_gd.T @ gene_gd + ridge * np.eye(gene_gd.shape[1]), gene_gd.T)
    right_ud = train_ud @ np.linalg.inv(train_ud.T @ train_ud + ridge * np.eye(width))
    inner_dd = left_dg @ (train.effect_ug - mean_g).T @ right_ud
    return mean_g + asked_ud @ inner_dd.T @ gene_gd.T


PERTURBATION_BASELINES: Mapping[str, PerturbationBaseline] = {
    "no_change": PerturbationBaseline(no_change, "perturbed cells are like their controls"),
    "mean_effect": PerturbationBaseline(mean_effect, "mean effect of the training perturbations"),
    "matching_mean": PerturbationBaseline(
        matching_mean, "same perturbation in other contexts, else mean of the parts, else mean of all"
    ),
    "additive": PerturbationBaseline(additive, "effects of the single perturbations added up"),
    "bilinear_ridge": PerturbationBaseline(bilinear_ridge, "ridge on both sides, perturbed genes by their own rows"),
    "bilinear_ridge_sets": PerturbationBaseline(bilinear_ridge_sets, "the same, perturbed genes by their gene sets"),
    "bilinear_ridge_model": PerturbationBaseline(
        bilinear_ridge_model, "the same, perturbed genes by a model's gene embedding"
    ),
}
"""Name -> baseline, weakest idea first. The last two need features of that kind."""
NEEDS = {"bilinear_ridge_sets": "gene_sets", "bilinear_ridge_model": "model"}
"""Baseline -> the kind of `Known.features` without which it is left out."""


def usable(known: Known) -> list[str]:
    """Return the baselines that can be run with what is known."""
    there = {kind for kind, found in (known.features or {}).items() if found}
    return [name for name in PERTURBATION_BASELINES if NEEDS.get(name) in there | {None}]


def _check(train: Profiles) -> None:
    if not len(train):
        raise ValueError("there is no training perturbation to learn from")


def _by_parts(train: Profiles) -> dict[Parts, np.ndarray]:
    """Return the mean effect of each perturbation over its contexts."""
    rows: dict[Parts, list[np.ndarray]] = {}
    for parts, effect_g in zip(train.asked.parts, train.effect_ug, strict=True):
        rows.setdefault(parts, []).append(effect_g)
    return {parts: np.mean(found, axis=0) for parts, found in rows.items()}


def _gene_embedding(train: Profiles) -> np.ndarray:
    """Return the scores of genes on the leading principal components of training profiles, ``[g, 10 or fewer]``.

    Genes are the observations: each profile is centred over its genes, as in the published code.
    """
    centred_ug = train.mean_ug - train.mean_ug.mean(1, keepdims=True)
    _, value_k, vector_kg = np.linalg.svd(centred_ug, full_matrices=False)
    rank = min(NUM_COMPONENTS, len(train))
    return (vector_kg[:rank] * value_k[:rank, None]).T


def _components(node: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Bring wide features to `NUM_COMPONENTS` principal components of unit mean length, so that one ridge fits all."""
    if not node:
        return {}
    value_pd = np.array(list(node.values()), np.float64)
    vector_pd, value_k, _ = np.linalg.svd(value_pd - value_pd.mean(0), full_matrices=False)
    rank = max(1, min(NUM_COMPONENTS, len(value_pd) - 1))
    found_pd = vector_pd[:, :rank] * value_k[:rank]
    found_pd /= max(np.sqrt((found_pd**2).sum(1).mean()), 1e-12)
    return dict(zip(node, found_pd, strict=True))
