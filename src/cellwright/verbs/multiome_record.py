"""What `multiome` leaves behind: scores beside baselines, and a file of cells with embeddings and told proteins."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.files import atomic_path
from cellwright.models import Model
from cellwright.verbs.labelled import split_words
from cellwright.verbs.training import publish

if TYPE_CHECKING:
    from cellwright.data.multimodal import Multimodal
    from cellwright.data.splits import Split
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.train.run import FitResult

HELD_OUT, TRANSFER = "Proteins told from RNA", "Proteins of the query"
LEAST_CELLS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """A column of obs as codes."""

    column: str | None
    code_n: np.ndarray | None
    """int64, -1 = not known; ``None`` = no column was named."""
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """A trained multi-omic model, its cells, and what it said of them."""

    model: Model
    fit: FitResult
    data: Multimodal
    split: Split
    train: np.ndarray
    """int64: cells that the model learnt from or was chosen by."""
    test: np.ndarray
    """int64: cells held out, some of ``whole``."""
    whole: np.ndarray
    """int64: all cells with RNA and proteins (peaks, without proteins)."""
    embedding_nd: np.ndarray
    proteins: tuple[str, ...]
    """Tokens."""
    told_nf: np.ndarray
    label: Groups
    tech_batch: Groups
    query: Multimodal | None
    query_told_nf: np.ndarray | None
    seed: int
    seconds: dict[str, float]

    @property
    def name(self) -> str:
        """What the model is called beside others."""
        return f"{self.model.family.title} multi-omic"

    @property
    def dataset(self) -> str:
        """Names of the studies, without folders; sizes of those that have none."""
        return ", ".join(self.data.titles)


def evaluate_made(made: Made, folder: Path) -> Evaluation | None:
    """Score embeddings and told proteins; told proteins also get records of their own in folders beside the report."""
    from cellwright.evaluate.multiome import MAX_CELLS, MultiomeStudy, evaluate_multiome

    start = time.perf_counter()
    told = {}
    if made.proteins and (held_out := _held_out(made)) is not None:
        told[HELD_OUT] = publish_own(held_out, folder / "proteins")
        if made.query is not None and (transfer := _transfer(made)) is not None:
            told[TRANSFER] = publish_own(transfer, folder / "query")
    rows = made.whole
    if len(rows) > MAX_CELLS:
        rows = np.sort(np.random.default_rng([made.seed, 2]).permutation(rows)[:MAX_CELLS])
    baselines = {} if made.label.code_n is None else _baseline_embeddings(made, rows)
    made.seconds["baselines and scoring"] = time.perf_counter() - start
    return evaluate_multiome(
        MultiomeStudy(
            title=f"Modalities of {made.dataset}",
            dataset=made.dataset,
            model=made.model,
            model_name=made.name,
            data=made.data,
            embedding_nd=made.embedding_nd,
            baselines=baselines,
            rows=rows,
            label_n=made.label.code_n,
            classes=made.label.names,
            tech_batch=made.tech_batch.column,
            tech_batch_n=made.tech_batch.code_n,
            tech_batches=made.tech_batch.names,
            told_nf=made.told_nf,
            proteins=made.proteins,
            told=told,
            fit=made.fit,
            split_sha256=made.split.sha256,
            seed=made.seed,
            seconds=made.seconds,
            notes=(*_split_notes(made), *made.split.notes),
            limitations=("One data set, one split, one training seed.",),
        )
    )


def publish_own(evaluation: Evaluation, folder: Path) -> Evaluation:
    """Save a part's record, rows and report into a folder of its own, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    publish(evaluation, folder)
    return evaluation


def _split_notes(made: Made) -> list[str]:
    num_mosaic = int((~made.data.is_measured_nm[made.train].all(1)).sum())
    lines = [
        f"Trained and chosen on {len(made.train):,} cells; {len(made.test):,} with both modalities were held out "
        f"({split_words(made.split)})."
    ]
    if num_mosaic:
        lines.append(f"{num_mosaic:,} of the training cells lack a modality and have no tokens of it.")
    return lines


def _held_out(made: Made) -> Evaluation | None:
    ids = made.data.panel("protein")
    return _evaluated(
        made, made.data, ids, made.test, made.told_nf, "held-out cells", "held-out cells of the same study"
    )


def _transfer(made: Made) -> Evaluation | None:
    query = made.query
    ids = np.intersect1d(made.data.panel("protein"), query.ids("protein"))
    rows = np.flatnonzero(query.measured("protein"))
    where = f"cells of {Path(query.studies[0]).name}"
    return _evaluated(made, query, ids, rows, made.query_told_nf, where, "a study that no method has learnt from")


def _evaluated(
    made: Made, data: Multimodal, ids: np.ndarray, rows: np.ndarray, told_nf: np.ndarray, where: str, note: str
) -> Evaluation | None:
    """Score the proteins ``ids`` of these cells; nothing where there are too few of either."""
    from cellwright.evaluate.parts import Section
    from cellwright.evaluate.study import cells_sha256
    from cellwright.evaluate.told_features import ToldCase, ToldStudy, evaluate_told

    train = made.train[made.data.measured("protein")[made.train]]
    tokens = tuple(made.model.vocab.tokens[i] for i in ids)
    tokens = tuple(token for token in tokens if token in set(made.proteins))
    if not tokens or len(rows) < LEAST_CELLS or len(train) < LEAST_CELLS:
        return None
    ids, at_f = made.model.vocab.ids(tokens), [made.proteins.index(token) for token in tokens]
    gene_ids = np.intersect1d(made.data.gene_ids, data.gene_ids)
    case = ToldCase(
        where=where,
        tokens=tokens,
        measured_nf=data.feature_values(ids, rows),
        told_nf=told_nf[np.ix_(rows, at_f)],
        rna_ng=data.cells.select(rows).logcp10k(gene_ids),
        train_ng=made.data.cells.select(train).logcp10k(gene_ids),
        train_nf=made.data.feature_values(ids, train),
        seconds=made.seconds.get("training", 0.0) + made.seconds.get("telling proteins", 0.0),
    )
    study = ToldStudy(
        title=f"Proteins told from RNA: {where}, learnt from {made.dataset}",
        dataset=", ".join(data.titles),
        model=made.model,
        model_name=made.name,
        what=f"{made.model.family.title} of {made.model.num_parameters:,} parameters, all proteins withheld",
        case=case,
        seed=made.seed,
        trained_parameters=made.fit.num_trained,
        split_sha256=made.split.sha256,
        data_sha256=cells_sha256(data.cells.select(rows)),
        notes=(
            f"Scored on {note}: {len(rows):,} cells, {len(tokens)} proteins; all methods learnt from {len(train):,} "
            f"cells and read RNA alone, {len(gene_ids):,} genes.",
        ),
        limitations=("One data set, one split, one training seed.",),
        contracts=[Section(heading="Modalities", lines=tuple(data.lines()))],
    )
    return evaluate_told(study)[0]


def _baseline_embeddings(made: Made, rows: np.ndarray) -> dict[str, tuple[np.ndarray, str]]:
    from cellwright.baselines.modalities import joint_embeddings
    from cellwright.data.features import term_frequencies

    data, is_peaks = made.data, "protein" not in made.data.modalities
    cells = data.cells.select(rows)
    other_nf = cells.values(data.ids("peak") if is_peaks else data.panel("protein"))
    return joint_embeddings(
        cells.logcp10k(data.gene_ids), term_frequencies(other_nf) if is_peaks else other_nf, is_peaks=is_peaks
    )


def write_cells(made: Made, path: Path) -> None:
    """Write cells with their annotations, embedding and told proteins; RNA and features stay where they came from."""
    import pandas as pd
    from anndata import AnnData
    from anndata.utils import make_index_unique

    from cellwright.data.write import storable

    obs = made.data.cells.obs
    obs.index = make_index_unique(pd.Index(obs.index.astype(str)))
    for column in obs.select_dtypes(object):
        obs[column] = pd.Categorical([None if value is None or value != value else str(value) for value in obs[column]])
    for modality in made.data.modalities:
        obs[f"has_{modality}"] = made.data.measured(modality)
    adata = AnnData(obs=obs)
    adata.obsm[made.model.key] = made.embedding_nd
    if made.proteins:
        names = [token.partition(":")[2] for token in made.proteins]
        adata.obsm["protein_told"] = pd.DataFrame(made.told_nf, index=obs.index, columns=names)
    record: dict[str, Any] = {"modalities": list(made.data.modalities), "lines": made.data.lines()}
    adata.uns["cellwright"] = {"multiome": storable(record)}
    with atomic_path(path) as draft:
        adata.write_h5ad(draft)
