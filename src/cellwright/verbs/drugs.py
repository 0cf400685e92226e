"""The verb that trains a network of drug response on measured cell lines, and scores it on held-out ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cellwright.files import atomic_path
from cellwright.verbs.drug_tables import ResponseColumns, mean_atoms, read_study
from cellwright.verbs.training import publish, removed_if_futile

if TYPE_CHECKING:
    from cellwright.data.drugs import LineFeatures, Responses
    from cellwright.data.molecules import MoleculeGraphs
    from cellwright.data.splits import Split
    from cellwright.evaluate.drugs import ResponseRow
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.tasks.drug import DrugConfig, DrugPredictor
    from cellwright.train.run import FitResult

NUM_FOLDS = 5
MAIN = "network"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrugResponse:
    """Trained predictors and their scores beside the baselines'."""

    predictor: DrugPredictor
    """The first of them."""
    fit: FitResult
    """Its training."""
    rows: list[ResponseRow]
    evaluation: Evaluation
    folder: Path
    report: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tables:
    """What training needs."""

    pairs: Responses
    lines: LineFeatures
    graphs: MoleculeGraphs | None
    config: DrugConfig
    columns: ResponseColumns
    split: str
    folds: tuple[int, ...]
    sources: Mapping[str, str]

    def parts(self) -> dict[int, Split]:
        """Return fold -> its split."""
        from cellwright.data.drug_splits import split_pairs

        seed = self.config.train.seed
        return {fold: split_pairs(self.pairs, by=self.split, fold=fold, seed=seed) for fold in self.folds}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Answered:
    """What every method answered for the test pairs of all folds."""

    test: Responses
    answers: dict[str, list[np.ndarray]]
    """Method -> answers, one array a seed; the network is first."""
    fold_p: np.ndarray | None
    """Fold of each pair; ``None`` = there is one fold."""
    seconds: dict[str, float]


def drug_response(
    responses: Any,
    cells: Any,
    *,
    drugs: Any = None,
    split: Literal["line", "drug", "pair"] = "line",
    fold: int | Literal["all"] = 0,
    out: str | Path,
    changes: Sequence[str] = (),
    columns: ResponseColumns | None = None,
    resume: bool = False,
) -> DrugResponse:
    """Train a network of ln IC50 on cell lines, and score it on held-out ones beside simple baselines.

    Parameters
    ----------
    responses
        Table (DataFrame or path of a CSV) with a row a measured pair of line and drug.
    cells
        Features of the lines: AnnData or .h5ad (expression, or an embedding in ``obsm``), DataFrame or CSV.
    drugs
        Structures: a table with SMILES (needs RDKit) or an .npz of graphs. ``None`` = drugs are known by name, so that
        no other drug can be asked for.
    split
        What is held out: whole lines, whole drugs, or single pairs (which cannot rank representations of cells).
    fold
        Which of the five folds is the test part; ``all`` = one network a fold, each pair answered while it is held out.
    out
        Run folder to make: model, metrics, log, answers for the test pairs, scores, figures and a report. With several
        folds or seeds (``num_seeds``) each network has a folder of its own in it.
    changes
        Changes to `cellwright.tasks.drug.DrugConfig` such as ``"train.max_epochs=5"`` or ``"num_seeds=3"``.
    columns
        How the tables are read; ``embedder`` makes features of the lines with a model.
    resume
        Go on with the interrupted run in ``out``.

    Raises
    ------
    ValueError
        When a table, name, structure or option cannot be used; nothing is left behind then.
    FileNotFoundError
        A file is not there, or there is nothing to resume.

    Examples
    --------
    >>> found = cellwright.drug_response("ic50.csv", lines, drugs="drugs.csv", out="runs/ic50")  # doctest: +SKIP
    """
    from cellwright.data.write import check_place
    from cellwright.train.run import open_run

    columns, folder = columns or ResponseColumns(), Path(out)
    tables = _read(responses, cells, drugs, split=split, fold=fold, changes=changes, columns=columns)
    parts = tables.parts()
    if not resume:
        check_place(folder)
    record = tables.config.record() | {
        "task": "drug_response",
        "columns": columns.record(),
        "split": {str(fold): part.record() for fold, part in parts.items()},
    }
    with removed_if_futile(folder):
        open_run(folder, record, resume=resume)
        members = _train(tables, parts, folder, resume=resume)
    first = next(iter(members.values()))
    answered = _answers(tables, parts, members)
    rows = _write_answers(answered, tables, folder)
    evaluation = _evaluate(answered, tables, parts, {name: fit for name, (_, fit) in members.items()})
    report = publish(evaluation, folder)
    return DrugResponse(
        predictor=first[0], fit=first[1], rows=rows, evaluation=evaluation, folder=folder, report=report
    )


def _read(
    responses: Any, cells: Any, drugs: Any, *, split: str, fold: Any, changes: Sequence[str], columns: ResponseColumns
) -> _Tables:
    from cellwright.tasks.drug import DrugConfig

    kind = "identity" if drugs is None else "graph"
    config = DrugConfig().override([f"net.drug={kind}", *changes])
    if config.net.drug == "identity" and split == "drug":
        raise ValueError("a model that knows drugs by name cannot answer for held-out drugs; give structures (drugs)")
    pairs, lines, graphs = read_study(responses, cells, drugs, columns)
    named = {"responses": responses, "cell lines": cells, "drugs": drugs}
    return _Tables(
        pairs=pairs,
        lines=lines,
        graphs=graphs,
        config=config,
        columns=columns,
        split=split,
        folds=tuple(range(NUM_FOLDS)) if fold == "all" else (fold,),
        sources={name: _source(data) for name, data in named.items()},
    )


def _source(data: Any) -> str:
    return "none" if data is None else str(data) if isinstance(data, str | Path) else type(data).__name__


def _train(
    tables: _Tables, parts: Mapping[int, Split], folder: Path, *, resume: bool
) -> dict[str, tuple[DrugPredictor, FitResult]]:
    """Train a network for each fold and seed; the only one lies in the run folder itself."""
    from cellwright.tasks.drug import train_drug_model

    config, members = tables.config, {}
    for fold, part in parts.items():
        for at in range(config.num_seeds):
            seed = config.train.seed + at
            name = member_name(fold, seed)
            is_alone = len(parts) * config.num_seeds == 1
            members[name] = train_drug_model(
                tables.pairs, tables.lines, tables.graphs, part,
                config=config.override([f"train.seed={seed}"]),
                folder=folder if is_alone else folder / name, resume=resume,
            )  # fmt: skip
    return members


def member_name(fold: int, seed: int) -> str:
    """Return the name of a network among several, and of its folder."""
    return f"fold_{fold}_seed_{seed}"


def _answers(
    tables: _Tables, parts: Mapping[int, Split], members: Mapping[str, tuple[DrugPredictor, FitResult]]
) -> _Answered:
    """Let the networks and the baselines answer the test pairs of each fold."""
    from cellwright.evaluate.drugs import baseline_answers

    seeds = [tables.config.train.seed + at for at in range(tables.config.num_seeds)]
    test = tables.pairs.take(np.concatenate([part.test for part in parts.values()]))
    drug_uf = None if tables.graphs is None else mean_atoms(tables.graphs)
    parts_of: dict[str, list[np.ndarray]] = {}
    seconds = {MAIN: sum(fit.seconds for _, fit in members.values()), "baselines": 0.0}
    by_seed: list[list[np.ndarray]] = [[] for _ in seeds]
    for fold, part in parts.items():
        own = tables.pairs.take(part.test)
        for at, seed in enumerate(seeds):
            by_seed[at].append(members[member_name(fold, seed)][0].predict(own, tables.lines, tables.graphs))
        start = time.perf_counter()
        found = baseline_answers(tables.pairs, tables.lines, part, drug_uf=drug_uf, seed=seeds[0])
        seconds["baselines"] += time.perf_counter() - start
        for name, pred_p in found.items():
            parts_of.setdefault(name, []).append(pred_p)
    answers = {MAIN: [np.concatenate(own) for own in by_seed]}
    answers |= {name: [np.concatenate(own)] for name, own in parts_of.items()}
    fold_p = np.repeat(list(parts), [len(part.test) for part in parts.values()]) if len(parts) > 1 else None
    return _Answered(test=test, answers=answers, fold_p=fold_p, seconds=seconds)


def _write_answers(found: _Answered, tables: _Tables, folder: Path) -> list[ResponseRow]:
    """Write answers, scores of each as rows, and the figure of them."""
    from cellwright.data.drugs import table_of
    from cellwright.evaluate.drugs import response_figure, score_responses, write_rows

    seed = tables.config.train.seed
    each = {
        name if not at else f"{name}, seed {seed + at}": pred_p
        for name, own in found.answers.items()
        for at, pred_p in enumerate(own)
    }
    resample = "drug" if tables.split == "drug" else "line"
    rows = score_responses(
        each,
        found.test,
        split=tables.split,
        resample=resample,
        fold_p=found.fold_p,
        rivals=["drug_mean", "effects"],
        seed=seed,
    )
    write_rows(rows, folder)
    folds = {} if found.fold_p is None else {"fold": found.fold_p}
    columns = {"ln_ic50": found.test.value_p, **folds, **each}
    with atomic_path(folder / "test_answers.csv") as draft:
        table_of(found.test, columns).to_csv(draft, index=False)
    networks = [name for name in each if name.startswith(MAIN)]
    with atomic_path(folder / "drug_scores.svg") as draft:
        draft.write_bytes(response_figure(rows, models=networks))
    return rows


_HELD_OUT = {
    "line": "whose lines no method has seen",
    "drug": "whose drugs no method has seen",
    "pair": "whose lines and drugs may have been seen in other pairs",
}


def _evaluate(
    found: _Answered, tables: _Tables, parts: Mapping[int, Split], fits: Mapping[str, FitResult]
) -> Evaluation:
    """Put the record of the report together."""
    from cellwright.evaluate.drug_study import DrugStudy, evaluate_drugs
    from cellwright.evaluate.parts import Section

    pairs, config = tables.pairs, tables.config
    known = "structure" if config.net.drug == "graph" else "name"
    facts = {
        "pairs": len(pairs),
        "cell lines": len(np.unique(pairs.line_p)),
        "drugs": len(np.unique(pairs.drug_p)),
        "features of a line": len(tables.lines.names),
        "features made by": tables.columns.embedder or "the caller",
        **{f"{name} from": source for name, source in tables.sources.items()},
    }
    limits = {"pair": "All lines and drugs may be in training: this split cannot rank representations of cells."}
    folds = f"All {len(parts)} folds" if len(parts) > 1 else f"Fold {next(iter(parts))} of {NUM_FOLDS}"
    return evaluate_drugs(
        DrugStudy(
            title=f"Drug response, held out by {tables.split}",
            dataset=tables.sources["responses"],
            held_out=_HELD_OUT[tables.split],
            pairs=found.test,
            answers=found.answers,
            what={MAIN: f"drugs by {known}, {len(tables.lines.names):,} features of lines"},
            resample="drug" if tables.split == "drug" else "line",
            fold_p=found.fold_p,
            fits=fits,
            contracts=(Section(heading="Tables", facts=facts),),
            notes=(f"{folds} held out by {tables.split}; training seeds: {config.num_seeds}.", *tables.lines.notes),
            limitations=(limits[tables.split],) if tables.split in limits else (),
            seconds=found.seconds,
            split_sha256=next(iter(parts.values())).sha256 if len(parts) == 1 else None,
            hashes={f"split of fold {fold} (SHA-256)": part.sha256 for fold, part in parts.items() if len(parts) > 1},
            seed=config.train.seed,
        )
    )
