"""Commands of drug response."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cellwright.commands.saying import say
from cellwright.verbs import ResponseColumns


def train(
    responses: Path,
    cells: Path,
    *,
    out: Path,
    drugs: Path | None = None,
    split: str = "line",
    fold: str = "0",
    set_: list[str] | None = None,
    columns: ResponseColumns,
    resume: bool = False,
) -> None:
    """Train a network of ln IC50 on cell lines, score it on held-out ones beside baselines, and write a run folder.

    Parameters
    ----------
    responses
        Table (CSV or TSV) with a row a measured pair of cell line and drug.
    cells
        Features of the lines: .h5ad (X, or an embedding with --slot), or CSV.
    out
        Run folder to make; "drug-response predict" takes it.
    drugs
        Structures: table with SMILES (needs RDKit), or .npz of graphs; unset = drugs are known by name only.
    split
        What is held out: line | drug | pair (pair cannot rank representations of cells).
    fold
        Which of the five folds is the test part, 0 .. 4; all = one network a fold.
    set
        Change any option, for instance --set train.max_epochs=5 --set num_seeds=3; may be repeated.
    resume
        Go on with the interrupted run in --out.
    """
    from cellwright import verbs
    from cellwright.evaluate.comparison import table_text

    found = verbs.drug_response(
        responses, cells, drugs=drugs, split=_choice(split), fold=_fold(fold), out=out, changes=set_ or [],
        columns=columns, resume=resume,
    )  # fmt: skip
    num = f"{found.rows[0].num_pairs:,} pairs of {found.rows[0].num_lines} lines and {found.rows[0].num_drugs} drugs"
    evaluation = found.evaluation
    say([f"held out by {split}: {num}", "", table_text(evaluation), "", *evaluation.summary])
    say([f"model: {out}", f"report: {found.report}"])


def predict(
    model: Path,
    cells: Path,
    *,
    out: Path,
    pairs: Path | None = None,
    drugs: Path | None = None,
    columns: ResponseColumns,
    device: str = "auto",
    report: Path | None = None,
) -> None:
    """Predict ln IC50 with a trained model, and write a table.

    Parameters
    ----------
    model
        Run folder of "drug-response train".
    cells
        Features of the lines, of the same kind as in training.
    out
        CSV to write: line, drug, ln_ic50, is_new_drug.
    pairs
        Table of lines and drugs to answer for; unset = every line with every drug.
    drugs
        Structures, for a model that reads them; new drugs may be among them.
    device
        Where to run: auto | cpu | cuda | cuda:N | mps.
    report
        Folder to make with scores and a report, where --pairs hold the measured values too.
    """
    from cellwright import verbs
    from cellwright.data.write import check_place
    from cellwright.files import atomic_path

    check_place(out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder; give the name of a CSV file")
    frame = verbs.predict_response(
        model, cells, pairs=pairs, drugs=drugs, columns=columns, device=device, report=report
    )
    with atomic_path(out) as draft:
        frame.to_csv(draft, index=False)
    new = sorted(set(frame.loc[frame["is_new_drug"], "drug"]))
    say([f"wrote {out}: {len(frame):,} predictions" + (f", {len(new)} drugs were not in training" if new else "")])
    if report is not None:
        say([f"report: {report / 'report.html'}"])


def transfer(
    bulk: Path,
    cells: Path,
    *,
    labels: Path,
    out: Path,
    set_: list[str] | None = None,
    columns: ResponseColumns,
    truth: str | None = None,
    group: str | None = None,
    resume: bool = False,
) -> None:
    """Score single cells by a binary response that is known of bulk samples only, and write a run folder.

    Parameters
    ----------
    bulk
        Features of bulk samples: .h5ad or CSV.
    cells
        Features of the cells, of the same kind; no label of a cell is read.
    labels
        Table with a row a bulk sample; --value names its column: 1 = sensitive, 0 = not.
    out
        Run folder to make, with cell_scores.csv and a report.
    set
        Change any option, for instance --set adversary=0.5; may be repeated.
    truth
        Column of obs of CELLS with their true response (1, 0 or nothing), read for scores alone.
    group
        Column of obs of CELLS with their line or donor, resampled whole for intervals where there are five.
    resume
        Go on with the interrupted run in --out.
    """
    from cellwright import verbs
    from cellwright.evaluate.comparison import table_text

    found = verbs.transfer_response(
        bulk, cells, labels=labels, out=out, changes=set_ or [], columns=columns, truth=truth, group=group,
        resume=resume,
    )  # fmt: skip
    if found.evaluation is not None:
        say([table_text(found.evaluation), "", *found.evaluation.summary, f"report: {out / 'report.html'}"])
    inside = "not known" if found.scores.source_auroc is None else f"{found.scores.source_auroc:.3f}"
    say([f"AUROC on held-out bulk samples: {inside} (says nothing of the cells)", f"wrote {out / 'cell_scores.csv'}"])


def _fold(word: str) -> int | Literal["all"]:
    if word == "all" or word.isdecimal():
        return "all" if word == "all" else int(word)
    raise ValueError(f"--fold {word!r}; give 0 .. 4, or all")


def _choice(split: str) -> Literal["line", "drug", "pair"]:
    if split not in ("line", "drug", "pair"):
        raise ValueError(f"--split {split!r}; choose line, drug or pair")
    return split  # type: ignore[return-value]
