"""Sections of a report on made cells: score by type, cells in one space, means of genes, numbers of genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cellwright.evaluate.labelled import DRAWING_NOTE
from cellwright.evaluate.measures import measures_of
from cellwright.evaluate.parts import Method, Picture, Section, Table
from cellwright.evaluate.projection import umap_embedding
from cellwright.metrics import GENERATION_METRICS

if TYPE_CHECKING:
    from cellwright.evaluate.generation import LevelCells
    from cellwright.evaluate.making import Compared

REAL = "held-out real cells"
BY_TYPE = ("e_distance", "c2st_auroc", "marker_recall")
_DRAWN_CELLS = 500
"""Most cells of a source in the joint drawing."""
_COMPONENTS = 30


def made_sections(
    methods: Sequence[Method], compared: Compared, classes: Sequence[str], seed: int
) -> tuple[Section, ...]:
    """Draw the made cells of all methods beside the real ones.

    Parameters
    ----------
    methods
        With their scores by type; the model first.
    compared
        Their cells, and the held-out ones.
    classes
        Names of the type codes.
    seed
        Of which cells are drawn, and of their positions.
    """
    from cellwright.evaluate import made_figures
    from cellwright.evaluate.style import INK

    code_t = np.unique(compared.held_out.code_n)
    sizes = np.bincount(compared.held_out.code_n, minlength=len(classes))[code_t]
    code_t = code_t[np.argsort(-sizes, kind="stable")]
    shown = [int(code) for code in code_t[: made_figures.MAX_TYPES]]
    names = {code + 1: classes[code] for code in shown}
    rest = len(code_t) - len(shown)
    only = (
        f" Drawn are the {len(shown)} types of the most held-out cells; {rest} more are in the tables." if rest else ""
    )
    looks = {REAL: (INK, "o"), **made_figures.method_looks(methods)}
    sources = {REAL: compared.held_out, **compared.methods}
    return (
        Section(
            heading="Score by type",
            note="Lines are 95 % intervals of the model." + only,
            pictures=(
                Picture(
                    name="by-type",
                    alt="Scores of all methods, type by type; the numbers of the model are in the table below",
                    svg=made_figures.by_type_figure(methods, names, measures_of(BY_TYPE)),
                ),
            ),
            tables=_type_tables(methods, [classes[code] for code in code_t]),
        ),
        _together(compared, classes, seed),
        Section(
            heading="Genes",
            note="A point is a gene of one type: its mean level in made cells against that in held-out ones. On the "
            "line both agree; the roof shows how near real cells of one source come. r is Pearson's over points.",
            pictures=(
                Picture(
                    name="gene-means",
                    alt="Mean level of each gene and type, made against real, for each method",
                    svg=made_figures.gene_means_figure(
                        {name: _means(cells, code_t) for name, cells in compared.methods.items()},
                        _means(compared.held_out, code_t),
                    ),
                ),
            ),
        ),
        Section(
            heading="Detected genes",
            note="Expressed genes of a cell: median (dot), middle half (thick) and middle 90 % (thin); shaded is the "
            f"middle half of real cells.{only}",
            pictures=(
                Picture(
                    name="detected-genes",
                    alt="Numbers of expressed genes in real and made cells, type by type",
                    svg=made_figures.detected_figure(
                        {name: _numbers(cells, shown) for name, cells in sources.items()},
                        names,
                        looks,
                    ),
                ),
            ),
        ),
    )


def _together(compared: Compared, classes: Sequence[str], seed: int) -> Section:
    """Place real and made cells together: principal components of all, then UMAP."""
    from sklearn.decomposition import PCA

    from cellwright.evaluate import made_figures

    sources = {REAL: compared.held_out, **compared.methods}
    generator = np.random.default_rng(seed)
    parts, types, codes = [], [], []
    for code, cells in enumerate(sources.values()):
        rows = np.sort(generator.permutation(len(cells.code_n))[:_DRAWN_CELLS])
        parts.append(cells.level_ng[rows].toarray())
        types.append(cells.code_n[rows])
        codes.append(np.full(len(rows), code))
    level_ng = np.concatenate(parts)
    num = min(_COMPONENTS, min(level_ng.shape) - 1)
    place_nd = PCA(num, svd_solver="full").fit_transform(level_ng) if num else level_ng
    svg = made_figures.together_figure(
        umap_embedding(place_nd, seed), np.concatenate(types), np.concatenate(codes), list(sources), classes
    )
    note = f"All cells were placed together; at most {_DRAWN_CELLS} of each source are drawn. {DRAWING_NOTE}"
    picture = Picture(name="cells", alt="Real and made cells in one space, a panel for each method", svg=svg)
    return Section(heading="Cells", note=note, pictures=(picture,))


def _means(cells: LevelCells, codes: Sequence[int]) -> np.ndarray:
    return np.concatenate([cells.of_type(code).mean(axis=0).A1 for code in codes])


def _numbers(cells: LevelCells, codes: Sequence[int]) -> list[np.ndarray]:
    return [cells.of_type(code).getnnz(axis=1) for code in codes]


def _type_tables(methods: Sequence[Method], names: Sequence[str]) -> dict[str, Table]:
    """Return all scores of the model, and those that are drawn of all methods."""
    measures, model = measures_of(GENERATION_METRICS), methods[0]
    tables = {
        f"{model.name}, all scores": Table(
            columns=("type", *(measure.label for measure in measures.values())),
            rows=tuple((name, *(_value(model, name, metric) for metric in measures)) for name in names),
            note="Intervals of all scores are in results.jsonl.",
        )
    }
    for metric in BY_TYPE:
        tables[f"{measures[metric].label} of all methods"] = Table(
            columns=("type", *(method.name for method in methods)),
            rows=tuple((name, *(_value(method, name, metric) for method in methods)) for name in names),
        )
    return tables


def _value(method: Method, part: str, metric: str) -> float | None:
    score = method.parts.get(part, {}).get(metric)
    return None if score is None else score.value
