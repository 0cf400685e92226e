"""The verb that predicts drug responses with trained networks, and scores them where they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.files import atomic_path
from cellwright.verbs.drug_tables import ResponseColumns, read_features, read_structures
from cellwright.verbs.drugs import MAIN
from cellwright.verbs.training import publish

if TYPE_CHECKING:
    import pandas as pd

    from cellwright.data.drugs import Responses
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.tasks.drug import DrugPredictor


def open_predictors(model: DrugPredictor | str | Path) -> list[DrugPredictor]:
    """Return the networks of a run folder: one, or one a fold and seed.

    Raises
    ------
    FileNotFoundError
        The folder holds none.
    """
    from cellwright.tasks.drug import FOLDER, DrugPredictor

    if isinstance(model, DrugPredictor):
        return [model]
    folder = Path(model)
    members = sorted(place.parent for place in folder.glob(f"fold_*/{FOLDER}"))
    places = [folder] if (folder / FOLDER).is_dir() else members
    return [DrugPredictor.load(place) for place in places or [folder]]


def predict_response(
    model: DrugPredictor | str | Path,
    cells: Any,
    *,
    pairs: Any = None,
    drugs: Any = None,
    columns: ResponseColumns | None = None,
    device: str = "auto",
    report: str | Path | None = None,
) -> pd.DataFrame:
    """Predict ln IC50 with a model made by `drug_response`; where it holds several networks, with their mean.

    Parameters
    ----------
    model
        Its run folder, or the predictor.
    cells
        Features of the lines, of the same kind as in training.
    pairs
        Table of lines and drugs to answer for; ``None`` = every line with every drug (of ``drugs``, or of training).
    drugs
        Structures, for a model that reads them; drugs that were not in training may be among them.
    columns
        How the tables are read.
    device
        Where to run.
    report
        Folder to make with scores and a report; ``pairs`` then hold the measured ln IC50 too.

    Returns
    -------
    DataFrame with ``line``, ``drug``, ``ln_ic50`` (predicted) and ``is_new_drug`` (not in training).
    """
    from cellwright.data.drugs import Responses, read_responses, table_of
    from cellwright.verbs.opening import check_new

    columns = columns or ResponseColumns()
    if report is not None:
        if pairs is None:
            raise ValueError("a report scores measured pairs; give them (pairs, --pairs)")
        check_new(report)
    predictors = open_predictors(model)
    lines = read_features(cells, columns)
    graphs = None if drugs is None else read_structures(drugs, columns)
    if pairs is None:
        asked = predictors[0].drugs if graphs is None else graphs.drugs
        line_p, drug_p = (part.ravel() for part in np.indices((len(lines.lines), len(asked))))
        wanted = Responses(line_p, drug_p, np.full(len(line_p), np.nan), lines.lines, tuple(asked))
    else:
        value = None if report is None else columns.value
        repeats = "keep" if report is None else columns.repeats
        wanted = read_responses(pairs, line=columns.line, drug=columns.drug, value=value, repeats=repeats)
    known = {drug for predictor in predictors for drug in predictor.drugs}
    is_new_u = np.array([drug not in known for drug in wanted.drugs])
    found_p = np.mean([one.predict(wanted, lines, graphs, device=device) for one in predictors], axis=0)
    if report is not None:
        source = str(pairs) if isinstance(pairs, str | Path) else "DataFrame"
        evaluation = _evaluate_predictions(predictors, wanted, found_p, source)
        with atomic_path(report) as draft:
            draft.mkdir()
            publish(evaluation, draft)
    return table_of(wanted, {"ln_ic50": found_p, "is_new_drug": is_new_u[wanted.drug_p]})


def _evaluate_predictions(
    predictors: Sequence[DrugPredictor], pairs: Responses, found_p: np.ndarray, source: str
) -> Evaluation:
    """Score predictions beside the drugs' means in training, which a predictor remembers."""
    from cellwright.evaluate.drug_study import FLOOR, DrugStudy, evaluate_drugs

    first = predictors[0]
    mean_u = [
        np.mean([one.record.get("drug_means", {}).get(drug, one.value_mean) for one in predictors])
        for drug in pairs.drugs
    ]
    asked = {pairs.lines[code] for code in np.unique(pairs.line_p)}
    trained = {line for one in predictors for line in one.record.get("train_lines", ())}
    notes = [f"{len(asked & trained):,} of {len(asked):,} lines were in training."]
    if asked & trained:
        notes[0] = f"warning: {notes[0]} What is said of them is no prediction of new lines."
    return evaluate_drugs(
        DrugStudy(
            title="Drug response, predicted and measured",
            dataset=source,
            held_out="measured elsewhere",
            pairs=pairs,
            answers={MAIN: [found_p], FLOOR: [np.array(mean_u)[pairs.drug_p]]},
            what={MAIN: f"mean of {len(predictors)} networks" if len(predictors) > 1 else "a trained network"},
            notes=tuple(notes),
            limitations=("Baselines that learn from measured pairs stand in the report of the training.",),
            seed=first.config.train.seed,
        )
    )
