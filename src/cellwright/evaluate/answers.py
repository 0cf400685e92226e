"""Score the labels that a finished model gives to held-out cells, beside baselines where there are cells to train them.

The model is taken as it is: a trained label head, or words. Held-out cells whose label it cannot say are counted and
named; they are scored for no method.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cellwright.config import did_you_mean
from cellwright.data.cells import Cells
from cellwright.data.splits import label_codes
from cellwright.evaluate.annotation import Contender, run_baselines
from cellwright.evaluate.apart import check_apart, seen_in_training, some
from cellwright.evaluate.evaluation import Evaluation, Grouping
from cellwright.evaluate.study import AnnotationStudy, cells_sha256, evaluate_study
from cellwright.tasks.embed import embed_cells
from cellwright.tasks.inference import InferenceOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerStudy:
    """What is scored, and beside what."""

    model: Any
    held_out: Cells
    label: str
    """Column of obs with the true types, in both sets of cells."""
    classes: tuple[str, ...]
    """What the model can answer."""
    train: Cells | None
    """Labelled cells that baselines learn from; ``None`` = no baseline is run."""
    group: str | None
    """Column with donors or studies."""
    is_told: bool
    """Whether the model answers in words."""
    seed: int = 0


def spread_words(word_n: np.ndarray, prob_n: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Turn each cell's word and its probability into probabilities of all words: float64 ``[n, k]``.

    What the told word leaves is spread evenly over the others. The told one was the likeliest, so it stays so, and
    scores that look at the likeliest class and its probability alone (accuracy, F1, ECE) are those of the model.
    """
    at = {name: code for code, name in enumerate(classes)}
    code_n = np.array([at[str(word)] for word in word_n], np.int64)
    prob_n = np.asarray(prob_n, np.float64)
    rest_n = (1 - prob_n) / max(len(classes) - 1, 1)
    prob_nk = np.repeat(rest_n[:, None], len(classes), axis=1)
    prob_nk[np.arange(len(code_n)), code_n] = prob_n if len(classes) > 1 else 1.0
    return prob_nk


def evaluate_answers(
    study: AnswerStudy, answer: Callable[[Cells], np.ndarray], run: InferenceOptions | None = None
) -> Evaluation:
    """Let the model answer, train and run the baselines, score all, and put a report's contents together.

    Parameters
    ----------
    answer
        Gives cells' probabilities of ``study.classes``, ``[n, k]``.
    run
        How the model is run for the embedding that is drawn.

    Raises
    ------
    ValueError
        When no held-out cell has a label that the model can say, training cells have fewer than two of its classes,
        or held-out cells are training cells.
    """
    held_out, model, title = study.held_out, study.model, study.model.family.title
    truth_n, unknown = _truth(study)
    apart = None if study.train is None else check_apart(study.train, held_out, study.group)
    start = time.perf_counter()
    prob_nk = answer(held_out)
    seconds = {"prediction": time.perf_counter() - start}
    main = Contender(
        name=f"{title}, told in words" if study.is_told else f"{title}, label head",
        what=f"{title} of {model.num_parameters:,} parameters, as it is",
        prob_nk=prob_nk,
        is_baseline=False,
        seconds=seconds["prediction"],
    )
    baselines, notes = _baselines(study, seconds)
    groups_n, group_names = (None, ()) if study.group is None else label_codes(held_out.obs, study.group)
    start = time.perf_counter()
    embedding_nd = embed_cells(model, held_out, run)
    seconds["embedding for the figures"] = time.perf_counter() - start
    return evaluate_study(
        AnnotationStudy(
            title=f"Cell types of {held_out.contract.title}, as {title} names them",
            where=f"{len(held_out):,} labelled cells",
            how="",
            dataset=held_out.contract.title,
            classes=study.classes,
            query=held_out,
            truth_n=truth_n,
            contenders=[main, *baselines],
            main=main.name,
            against=[(main.name, other.name) for other in baselines if other.name != "majority"],
            embedding_nd=embedding_nd,
            groupings={} if study.group is None else {study.group: Grouping(groups_n, group_names)},
            groups_n=groups_n,
            contracts={"Held out": held_out.contract, **({"Training": study.train.contract} if study.train else {})},
            model=model,
            split_sha256=None if apart is None else apart.sha256,
            hashes={} if study.train is None else {"training cells (SHA-256)": cells_sha256(study.train)},
            seed=study.seed,
            seconds=seconds,
            summary=(*_unknown_lines(study, unknown, truth_n, prob_nk), *(apart.notes if apart else ()), *notes),
            limitations=(*seen_in_training(model, held_out), *_LIMITATIONS),
        )
    )


_LIMITATIONS = (
    "One model as it is, one set of cells; intervals are over these cells only.",
    "What the model was trained on is not known here beyond its own record.",
)


def _truth(study: AnswerStudy) -> tuple[np.ndarray, dict[str, int]]:
    """Return the code of each held-out cell's label, -1 where the model cannot say it, and those labels with counts."""
    code_n, names = label_codes(study.held_out.obs, study.label)
    at = {name: code for code, name in enumerate(study.classes)}
    truth_n = np.array([at.get(name, -1) for name in names], np.int64)[code_n]
    unknown = {name: int((code_n == k).sum()) for k, name in enumerate(names) if name not in at}
    if not (truth_n >= 0).any():
        near = did_you_mean(names[0], study.classes)
        raise ValueError(
            f"column {study.label!r}: none of its {len(names)} labels ({some(list(names), 3)}) is one that the model "
            f"can say ({some(list(study.classes), 3)}){near}"
        )
    return truth_n, unknown


def _unknown_lines(study: AnswerStudy, unknown: dict[str, int], truth_n: np.ndarray, prob_nk: np.ndarray) -> list[str]:
    if not unknown:
        return []
    num = sum(unknown.values())
    right = float((prob_nk.argmax(1) == truth_n).mean())
    lines = [
        f"{num:,} of {len(truth_n):,} cells have a label that the model cannot say and are scored for no method; "
        f"counted as wrong, its accuracy would be {right:.3f}."
    ]
    for name, count in sorted(unknown.items(), key=lambda item: -item[1]):
        lines.append(f"not scored: {name!r}, {count:,} cells (no such class{did_you_mean(name, study.classes)})")
    return lines


def _baselines(study: AnswerStudy, seconds: dict[str, float]) -> tuple[list[Contender], list[str]]:
    """Train the baselines on the training cells of classes that the model can say."""
    if study.train is None:
        return [], ["No training cells were given, so no baseline was run."]
    code_n, names = label_codes(study.train.obs, study.label)
    at = {name: code for code, name in enumerate(study.classes)}
    code_n = np.array([at.get(name, -1) for name in names], np.int64)[code_n]
    rows = np.flatnonzero(code_n >= 0)
    if len(np.unique(code_n[rows])) < 2:
        raise ValueError(
            f"column {study.label!r} of the training cells has {len(np.unique(code_n[rows]))} of the model's classes; "
            "baselines need at least two"
        )
    start = time.perf_counter()
    found = run_baselines(
        study.train.select(rows), code_n[rows], study.held_out, num_classes=len(study.classes), seed=study.seed
    )
    seconds["baselines"] = time.perf_counter() - start
    left = len(code_n) - len(rows)
    words = f"; {left:,} of other classes were left out" if left else ""
    return found, [f"Baselines learnt from {len(rows):,} cells of {len(np.unique(code_n[rows]))} classes{words}."]
