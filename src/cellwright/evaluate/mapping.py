"""Score a mapping onto a reference: are known types named right, are votes honest, do unknown types stand out?

The model's embedding, principal components of the same cells and genes, and classifiers answer for the same query
cells. What a reference lacks is not known beforehand, so each type is taken out of it in turn: its query cells should
then get higher outside scores than the others. Embeddings do not change by that; classifiers are trained again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cellwright.baselines.annotation import ANNOTATION_BASELINES, principal_components
from cellwright.config import did_you_mean
from cellwright.data.cells import Cells
from cellwright.data.splits import label_codes
from cellwright.evaluate.annotation import Contender
from cellwright.evaluate.apart import Apart, check_apart, seen_in_training
from cellwright.evaluate.evaluation import Evaluation, Grouping
from cellwright.evaluate.outside import OUTSIDE, OUTSIDE_MEASURES, UNKNOWN, LeftOut, outside_section, with_outside
from cellwright.evaluate.study import AnnotationStudy, cells_sha256, evaluate_study
from cellwright.tasks.mapping import IndexConfig, Labels, build_index, map_cells

LEAST_CELLS = 10
"""Fewest query cells, and fewest reference cells, of a type that is taken out."""
DRAWN = 2000
"""Most reference cells that are drawn beside the query."""
CLASSIFIERS = ("majority", "pca_logistic")


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingStudy:
    """A reference and a query with labels of the same column, and the model that embeds both."""

    model: Any
    reference: Cells
    query: Cells
    reference_nd: np.ndarray
    """Embedding of the reference, float32 ``[m, d]``."""
    query_nd: np.ndarray
    label: str
    group: str | None = None
    """Column with donors or studies."""
    config: IndexConfig = IndexConfig()
    seed: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


def evaluate_mapping(study: MappingStudy) -> Evaluation:
    """Map, vote, run the baselines, take each type out in turn, and put a report's contents together.

    Raises
    ------
    ValueError
        When no query cell is of a type of the reference, the reference has fewer than two types, or query cells are
        reference cells.
    """
    code_m, classes = label_codes(study.reference.obs, study.label)
    truth_n, unknown = _truth(study, classes)
    apart = check_apart(study.reference, study.query, study.group)
    if len(classes) < 2:
        raise ValueError(f"the reference has cells of one type ({classes[0]}); two are needed to tell them apart")
    ways = _ways(study)
    contenders, left_out = [], {}
    for name, way in ways.items():
        start = time.perf_counter()
        prob_nk, outside_n = way.answer(code_m, len(classes))
        seconds = way.seconds + time.perf_counter() - start
        contenders.append(
            Contender(name=name, what=way.what, prob_nk=prob_nk, is_baseline=way.is_baseline, seconds=seconds)
        )
        without = _without_each(way, code_m, truth_n, len(classes))
        left_out[name] = LeftOut(whole_n=outside_n, without=without)
    main = next(iter(ways))
    evaluation = evaluate_study(_annotation_study(study, contenders, truth_n, classes, apart, unknown))
    measures = dict(evaluation.measures) | OUTSIDE_MEASURES
    methods = with_outside(evaluation.methods, left_out, truth_n, classes, seed=study.seed)
    sections = list(evaluation.sections)
    if left_out[main]:
        sections.insert(0, outside_section(left_out, truth_n, classes, main=main))
    changes = {"measures": measures, "methods": methods, "sections": tuple(sections), "drawn": _DRAWN_METRICS}
    return Evaluation(**{name: getattr(evaluation, name) for name in Evaluation.model_fields} | changes)


_DRAWN_METRICS = ("macro_f1_present", "accuracy", "ece", OUTSIDE, UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """One way of naming query cells from a reference."""

    what: str
    is_baseline: bool
    seconds: float = 0.0
    places: tuple[np.ndarray, np.ndarray] | None = None
    """Reference and query in a space with distances; ``None`` = a classifier."""
    config: IndexConfig = IndexConfig()
    classifier: Any = None
    expression: tuple[Any, Any] | None = None
    seed: int = 0

    def answer(self, code_m: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities ``[n, k]`` and outside scores ``[n]``; reference cells of code -1 are not there."""
        rows = np.flatnonzero(code_m >= 0)
        if self.places is None:
            train_ng, query_ng = self.expression
            prob_nk = self.classifier(
                train_ng[rows], code_m[rows], query_ng, num_classes=num_classes, seed=self.seed
            )  # fmt: skip
            return prob_nk, 1 - prob_nk.max(1)
        reference_md, query_nd = self.places
        num = min(self.config.num_neighbors, len(rows) - 1)
        config = self.config.model_copy(update={"num_neighbors": num})
        names = tuple(map(str, range(num_classes)))
        index = build_index(reference_md[rows], {"type": Labels(code_m=code_m[rows], names=names)}, config=config)
        mapped = map_cells(index, query_nd)
        return mapped.votes["type"].share_nk, mapped.outside_n


def _ways(study: MappingStudy) -> dict[str, _Way]:
    """Return the ways by name, the model first."""
    model, config = study.model, study.config
    shared = np.intersect1d(
        study.reference.contract.genes.matched_ids, study.query.contract.genes.matched_ids
    )  # fmt: skip
    if not len(shared):
        raise ValueError("reference and query share no gene of the vocabulary; they cannot be compared")
    expression = study.reference.logcp10k(shared), study.query.logcp10k(shared)
    start = time.perf_counter()
    places = principal_components(*expression, study.seed)
    seconds = time.perf_counter() - start
    vote = f"vote of the {config.num_neighbors} nearest reference cells"
    found = {
        f"{model.family.title} embedding": _Way(
            what=f"{vote} in the embedding of {model.num_parameters:,} parameters",
            is_baseline=False,
            seconds=sum(study.seconds.values()),
            places=(study.reference_nd, study.query_nd),
            config=config,
        ),
        "pca_map": _Way(
            what=f"{vote} in {places[0].shape[1]} principal components of the reference",
            is_baseline=True,
            seconds=seconds,
            places=tuple(x.astype(np.float32) for x in places),
            config=config.model_copy(update={"metric": "euclidean"}),
        ),
    }
    for name in CLASSIFIERS:
        baseline = ANNOTATION_BASELINES[name]
        found[name] = _Way(
            what=baseline.what,
            is_baseline=True,
            classifier=baseline.fit_predict,
            expression=expression,
            seed=study.seed,
        )
    return found


def _without_each(way: _Way, code_m: np.ndarray, truth_n: np.ndarray, num_classes: int) -> dict[int, np.ndarray]:
    """Return, for each type that can be taken out, every query cell's outside score without it."""
    found = {}
    for code in range(num_classes):
        is_enough = min((code_m == code).sum(), (truth_n == code).sum()) >= LEAST_CELLS
        others = np.unique(code_m[code_m != code])
        if is_enough and len(others) >= 2 and ((truth_n >= 0) & (truth_n != code)).any():
            found[code] = way.answer(np.where(code_m == code, -1, code_m), num_classes)[1]
    return found


def _truth(study: MappingStudy, classes: tuple[str, ...]) -> tuple[np.ndarray, dict[str, int]]:
    """Return the code of each query cell's type, -1 where the reference lacks it, and those types with counts."""
    code_n, names = label_codes(study.query.obs, study.label)
    at = {name: code for code, name in enumerate(classes)}
    truth_n = np.array([at.get(name, -1) for name in names], np.int64)[code_n]
    if not (truth_n >= 0).any():
        near = did_you_mean(names[0], classes)
        raise ValueError(f"column {study.label!r}: no query cell is of a type of the reference ({names[0]!r}...){near}")
    return truth_n, {name: int((code_n == k).sum()) for k, name in enumerate(names) if name not in at}


def _annotation_study(
    study: MappingStudy,
    contenders: list[Contender],
    truth_n: np.ndarray,
    classes: tuple[str, ...],
    apart: Apart,
    unknown: Mapping[str, int],
) -> AnnotationStudy:
    model, query, title = study.model, study.query, study.model.family.title
    main, num = contenders[0].name, len(query)
    drawn = np.sort(np.random.default_rng(study.seed).permutation(len(study.reference))[:DRAWN])
    groups_n = None if study.group is None else label_codes(query.obs, study.group)[0]
    side_n = np.repeat([1, 0], [num, len(drawn)])
    reference_code_n = label_codes(study.reference.obs, study.label)[0][drawn]
    names = [cells.contract.title for cells in (study.reference, query)]
    lines = [f"the reference lacks {name!r}, so no label is scored: {count:,} cells" for name, count in unknown.items()]
    return AnnotationStudy(
        title=f"{names[1]} mapped onto {names[0]} by {title}",
        task="map_reference",
        where=f"{num:,} query cells after {len(study.reference):,} reference cells of {len(classes)} types",
        how="",
        dataset=query.contract.title,
        classes=classes,
        query=query,
        truth_n=truth_n,
        contenders=contenders,
        main=main,
        against=[(main, other.name) for other in contenders[1:] if other.name != "majority"],
        embedding_nd=np.concatenate([study.query_nd, study.reference_nd[drawn]]),
        context={"truth_n": reference_code_n, "pred_n": np.full(len(drawn), -1)},
        groupings={"cells": Grouping(side_n, ("reference", "query"))},
        groups_n=groups_n,
        contracts={"Query": query.contract, "Reference": study.reference.contract},
        model=model,
        split_sha256=apart.sha256,
        hashes={"reference cells (SHA-256)": cells_sha256(study.reference)},
        seed=study.seed,
        seconds=study.seconds,
        summary=(*apart.notes, *lines),
        limitations=(*seen_in_training(model, query), *_LIMITATIONS),
    )


_LIMITATIONS = (
    "One model as it is, one reference, one query; intervals are over these query cells only.",
    "A type that was taken out is one that somebody had named: truly new cells may lie nearer to the reference, or "
    "farther out.",
    "A shift between studies raises the outside score of all cells alike; the AUROC does not see that.",
)
