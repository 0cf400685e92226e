"""Interactions in held-out combinations: what their parts do alone, what was found, and what methods find of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from cellwright.evaluate.measures import finite_or_none
from cellwright.evaluate.parts import Entry, Picture, Section, Table
from cellwright.evaluate.perturbation_tables import ROOF
from cellwright.evaluate.style import BASELINE, BOUNDS, MODEL, WIDTH, house_style, place_axes, svg
from cellwright.metrics.effects import FDR, Alone, Answer, Truth
from cellwright.metrics.interactions import INTERACTION_FDP, ranked_genes
from cellwright.metrics.perturbed import Tallies
from cellwright.tasks.lessons import Screen
from cellwright.tasks.perturb import Predictions

ADDITIVE = "additive"
MOST_POINTS = 400
_METRICS = {"interaction_auprc": "AUPRC", "interaction_recall": "recall"}
_COLOURS = (MODEL, "#CC79A7", "#56B4E9", "#E69F00")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """Interactions in real cells, and how methods find them over all thresholds."""

    num_e: np.ndarray
    """Real interactions of each entry, mean of both halves of its cells; NaN where it is not asked about."""
    asked_e: np.ndarray
    """Genes asked about."""
    curve: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """Method -> recall and precision as the threshold falls, all combinations and both halves together; equal
    predictions come in together, at the mean of what they are."""


def parts_alone(screen: Screen, predictions: Predictions) -> Alone | None:
    """Return what the parts of each test combination do alone: all cells of their profiles in the entry's context.

    ``None`` where no combination has all of its parts alone in its fold's training.
    """
    if not predictions.has_alone_e.any():
        return None
    names = screen.profiles
    place = {(parts[0], context): u for u, (parts, context) in enumerate(zip(names.parts, names.context, strict=True))
             if len(parts) == 1}  # fmt: skip
    shape = predictions.reference_eg.shape
    sum_eg, error_eg, spread_eg = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for entry in np.flatnonzero(predictions.has_alone_e):
        u = predictions.at_e[entry]
        for part in names.parts[u]:
            rows = np.flatnonzero(screen.profile_n == place[part, names.context[u]])
            mean_g, variance_g = screen.moments(rows)
            sum_eg[entry] += mean_g
            error_eg[entry] += variance_g / len(rows)
            spread_eg[entry] += (variance_g / len(rows)) ** 2 / (len(rows) - 1)
    num_parts = [len(names.parts[u]) for u in predictions.at_e]
    return Alone(
        num_parts_u=np.where(predictions.has_alone_e, num_parts, 0),
        sum_ug=sum_eg,
        error_ug=error_eg,
        spread_ug=spread_eg,
    )


def find_interactions(truths: Sequence[Truth], answers: Mapping[str, Sequence[Answer]]) -> Found | None:
    """Return what there is to find and who finds it; ``None`` where nothing is asked about."""
    if truths[0].alone is None:
        return None
    curve, num_e = {}, np.full(len(truths[0].num_u), np.nan)
    asked_e = num_e.copy()
    for name, said in answers.items():
        halves = [ranked_genes(truth, answer) for truth, answer in zip(truths, said, strict=True)]
        for u in halves[0]:
            num_e[u] = np.mean([half[u].is_real_k.sum() for half in halves])
            asked_e[u] = len(halves[0][u].is_real_k)
        genes = [genes for half in halves for genes in half.values()]
        is_real_k, size_k = (np.concatenate([getattr(g, field) for g in genes]) for field in ("is_real_k", "size_k"))
        if is_real_k.any():
            curve[name] = _expected_curve(is_real_k, size_k)
    return Found(num_e=num_e, asked_e=asked_e, curve=curve)


def _expected_curve(is_real_k: np.ndarray, size_k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and precision after each gene; equal ones each count as the mean of them all."""
    _, code_k = np.unique(-size_k, return_inverse=True)
    share_c = np.bincount(code_k, is_real_k) / np.bincount(code_k)
    hits_k = np.cumsum(share_c[np.sort(code_k)])
    shown = np.unique(np.geomspace(1, len(hits_k), MOST_POINTS).round().astype(int)) - 1
    return hits_k[shown] / is_real_k.sum(), hits_k[shown] / (shown + 1)


def interaction_section(
    screen: Screen, predictions: Predictions, found: Found, tallies: Mapping[str, Tallies], *, main: str
) -> Section:
    """Return the part of a report on interactions: the curves, and combination by combination what there is."""
    names = list(dict.fromkeys([main, ADDITIVE, ROOF]))
    shown = [f"{label}, {name}" for label in _METRICS.values() for name in names]
    rows: list[tuple[Entry, ...]] = []
    for entry in np.flatnonzero(np.isfinite(found.num_e)):
        scores = [_score(tallies[name], metric, entry) for metric in _METRICS for name in names]
        title = screen.profiles.title(int(predictions.at_e[entry]))
        where = (title, int(predictions.fold_e[entry]), int(found.asked_e[entry]), float(found.num_e[entry]))
        rows.append((*where, *scores))
    columns = ("combination", "fold", "genes asked about", "real interactions", *shown)
    nothing = "no combination departs from additivity anywhere, so that nothing can be scored: more cells may show more"
    return Section(
        heading="Interactions",
        note=f"An interaction is a gene at which a combination departs from the sum of what its parts do alone: "
        f"{FDR:.0%} false discoveries among the genes of a combination (Benjamini and Hochberg), in each half of its "
        f"cells. Methods are asked by how far their predictions depart from the same sum; {ADDITIVE} says nowhere, and "
        f"stands at chance. Interaction recall is at {INTERACTION_FDP:.0%} false ones. Asked about are combinations "
        "whose parts training has alone.",
        pictures=(_picture(found, predictions),) if found.curve else (),
        lines=() if found.curve else (nothing,),
        tables={"": Table(columns=columns, rows=tuple(rows))},
    )


def _score(tallies: Tallies, metric: str, entry: int) -> float | None:
    return finite_or_none(float(tallies.value_u[metric][entry]))


def _picture(found: Found, predictions: Predictions) -> Picture:
    return Picture(
        name="interactions",
        alt="Precision against recall of real interactions for every method, as the threshold on predicted ones falls",
        svg=curves_figure(found, predictions.is_baseline),
    )


def curves_figure(found: Found, is_baseline: Mapping[str, bool]) -> bytes:
    """Draw precision against recall: every model, the best baseline, and between chance and the replicate.

    Returns
    -------
    SVG.
    """
    area = {name: float(np.trapezoid(precision_k, recall_k)) for name, (recall_k, precision_k) in found.curve.items()}
    models = [name for name in area if not is_baseline.get(name, True)]
    others = sorted((name for name in area if is_baseline.get(name) and name != ADDITIVE), key=lambda name: -area[name])
    styles = {name: {"color": colour, "linewidth": 2.2} for name, colour in zip(models, _COLOURS, strict=False)}
    styles |= {name: {"color": BASELINE, "linewidth": 1.6, "label": f"{name}: best baseline"} for name in others[:1]}
    styles[ADDITIVE] = {"color": BOUNDS["floor"], "linestyle": "--", "label": f"{ADDITIVE}: chance"}
    styles[ROOF] = {"color": BOUNDS["roof"], "linestyle": "--"}
    with house_style():
        figure = Figure((WIDTH, 4.2))
        axes = place_axes(figure, (0.75, 0.65, 5.6, 3.2))
        for name, style in styles.items():
            axes.plot(*found.curve[name], **{"label": name} | style)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall of real interactions", ylabel="precision")
        axes.set_title("All combinations together")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.02, 1))
        return svg(figure)
