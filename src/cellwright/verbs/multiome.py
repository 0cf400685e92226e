"""The verb for several modalities: genes beside proteins or peaks in one model, which embeds cells by all of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from cellwright.config import Config, did_you_mean
from cellwright.models import Model
from cellwright.models.adapt import adapted
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.multiome_record import Groups, Made, evaluate_made, write_cells
from cellwright.verbs.opening import check_new, open_model
from cellwright.verbs.training import publish, removed_if_futile

if TYPE_CHECKING:
    from cellwright.data.features import FeatureOptions
    from cellwright.data.multimodal import Multimodal
    from cellwright.data.splits import Split
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.tasks.multiome import Calibration, MultiomeConfig
    from cellwright.train.run import FitResult

NOT_KNOWN = ("unknown", "unassigned", "nan", "none", "")
"""Labels that say that a cell has none."""


class RnaOptions(Config):
    """How the genes are read."""

    layer: str | None = None
    """Matrix of counts to read: X, raw, or a layer's name; unset = counts where there are any."""
    assume: str | None = None
    """What the values are, overriding what is detected: raw."""
    genes: Literal["harmonise", "exact"] = "harmonise"
    """How gene names are matched: harmonise (aliases, Ensembl ids, versions) | exact (as published tools do)."""


class CellColumns(Config):
    """Which columns of obs are looked at."""

    label: str | None = None
    """Column with cell types to score embeddings by; unknown and unassigned are no types."""
    tech_batch: str | None = None
    """Column with sequencing batches: told to the heads and hidden from the embedding."""
    split_by: str = "cells"
    """Column whose groups are held out whole, or cells = random ones."""
    split_seed: int | None = Field(None, ge=0)
    """Seed by which cells are held out, and of scores and drawings; unset = that of training (train.seed)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MultiomeResult:
    """What `multiome` made."""

    model: Model
    fit: FitResult
    data: Multimodal
    embedding_nd: np.ndarray
    """float32 ``[n, d]``: cells embedded from all that was measured in them."""
    proteins: tuple[str, ...]
    """Names of the proteins that were told; empty without proteins."""
    told_nf: np.ndarray
    """float32 ``[n, f]``: proteins of every cell told from the rest of it, centred log ratios."""
    evaluation: Evaluation | None
    """``None`` where there is nothing to score: neither labels nor proteins."""
    folder: Path


def multiome(
    adata: Any,
    model: Model | str | Path,
    *,
    out: str | Path,
    columns: CellColumns | None = None,
    query: Any = None,
    changes: Sequence[str] = (),
    features: FeatureOptions | None = None,
    rna: RnaOptions | None = None,
    run: InferenceOptions | None = None,
) -> MultiomeResult:
    """Train a model on genes beside proteins or peaks, embed cells by all of them, and tell proteins from RNA.

    Parameters
    ----------
    adata
        AnnData with marked features (``var["feature_types"]``) or a slot of protein counts, MuData, a path of one, 10x
        data, or a mapping modality -> any of these. A list of them is a mosaic of studies, each of which may lack a
        modality.
    model
        A loaded model, the path of a checkpoint, or the name of a shipped one, of a family that can tell modalities
        apart. It is not changed.
    out
        Run folder to make: the trained model, ``cells.h5ad`` (embedding and told proteins), scores and report.
    columns
        Columns of obs with labels, sequencing batches, and groups that are held out whole.
    query
        A further study with proteins, never trained on: its proteins are told from its RNA and scored.
    changes
        Changes to `cellwright.tasks.multiome.MultiomeConfig` such as ``"train.max_epochs=3"``.
    features
        How proteins and peaks are read.
    rna
        How genes are read.
    run
        How the model is run.

    Returns
    -------
    `MultiomeResult`.

    Raises
    ------
    ValueError
        When data, options or folder cannot be used, for instance because there is RNA alone; nothing is left behind.
    """
    from cellwright.tasks.multiome import MultiomeConfig

    check_new(out)
    config = MultiomeConfig().override(changes)
    work = _Work(
        open_model(model), config, columns or CellColumns(), rna or RnaOptions(), run or InferenceOptions(), Path(out)
    )
    work.read(adata, query, features)
    with removed_if_futile(work.folder):
        return work.done()


class _Work:
    """One call of the verb, step by step."""

    def __init__(
        self,
        model: Model,
        config: MultiomeConfig,
        columns: CellColumns,
        rna: RnaOptions,
        run: InferenceOptions,
        folder: Path,
    ):
        self.base, self.config, self.columns, self.rna, self.run, self.folder = model, config, columns, rna, run, folder
        self.seed = config.train.seed if columns.split_seed is None else columns.split_seed
        self.seconds: dict[str, float] = {}

    def read(self, adata: Any, query: Any, features: FeatureOptions | None) -> None:
        """Open everything and check all that can be checked before training."""
        from cellwright.data.multimodal import feature_tokens, open_multimodal, read_studies
        from cellwright.data.splits import label_codes
        from cellwright.tasks.multiome import modality_changes

        start = time.perf_counter()
        studies = read_studies(adata, features)
        vocab = self.base.vocab.extended(feature_tokens(studies, self.config.num_peaks))
        options = {"accepts": ("raw",), **self.rna.record()}
        data = open_multimodal(studies, vocab, **options)
        obs = data.cells.obs
        self.label_n, self.classes = _labels(obs, self.columns.label)
        self.tech_batch_n, self.tech_batches = None, ()
        if self.columns.tech_batch is not None:
            self.tech_batch_n, self.tech_batches = label_codes(obs, self.columns.tech_batch)
            data = replace(data, cells=data.cells.with_obs({"tech_batch": self.tech_batch_n}))
        self.data = data
        changes = modality_changes(self.base, data.modalities, len(self.tech_batches))
        self.split, self.rows = self._split()
        self.query = None if query is None else self._open_query(query, features, vocab, options)
        made = adapted(self.base, changes, vocab=vocab, seed=self.config.train.seed)
        self.model, self.unlearnt = made.model, made.unlearnt
        if self.tech_batch_n is not None:
            facts = {"names": list(self.tech_batches), "column": self.columns.tech_batch}
            self.model.origin["tech_batches"] = facts
        self.seconds["reading"] = time.perf_counter() - start

    def _open_query(
        self, query: Any, features: FeatureOptions | None, vocab: Any, options: dict[str, Any]
    ) -> Multimodal:
        from cellwright.data.modalities import read_study
        from cellwright.data.multimodal import open_multimodal

        study = read_study(query, features)
        if "protein" not in study.blocks:
            raise ValueError(
                f"the query {study.name} has no proteins to compare with; leave it out, or give one with them"
            )
        opened = open_multimodal([study], vocab, **options)
        if not len(np.intersect1d(opened.ids("protein"), self.data.ids("protein"))):
            raise ValueError(
                f"the query {study.name} shares no protein with the training cells; are names written alike?"
            )
        return opened

    def _split(self) -> tuple[Split, Any]:
        """Hold out some of the cells that have RNA and proteins (peaks, without proteins); others are for training."""
        from cellwright.data.splits import split_cells
        from cellwright.tasks.finetuning import Rows

        data, by = self.data, self.columns.split_by
        needed = ("rna", "protein" if "protein" in data.modalities else "peak")
        whole = np.flatnonzero(data.measured(needed[0]) & data.measured(needed[1]))
        if len(whole) < 20:
            raise ValueError(
                f"{len(whole)} cells have {_words(needed)}; at least 20 are needed to train on and hold out"
            )
        label = None if by != "cells" else self.columns.label
        obs = data.cells.obs.iloc[whole]
        obs = obs if label is None else obs.assign(**{label: self.label_n[whole]})
        split = split_cells(obs, by=by, valid=0.1, test=0.2, seed=self.seed, label=label)
        mosaic = np.setdiff1d(np.arange(len(data)), whole)
        mosaic = mosaic[data.is_measured_nm[mosaic].any(1)]
        train = np.sort(np.concatenate([whole[split.train], mosaic]))
        self.whole, self.test = whole, whole[split.test]
        return split, Rows(train=train, valid=whole[split.valid])

    def done(self) -> MultiomeResult:
        """Train, embed, tell, score and write."""
        from cellwright.tasks.embed import embed_cells
        from cellwright.tasks.left_out import FEATURES, left_out_of
        from cellwright.tasks.multiome import told_tokens, train_multiome
        from cellwright.train.run import open_run

        record = self.config.record() | {
            "task": "multiome",
            "model": {"source": self.base.report.source, "sha256": self.base.sha256()},
            "columns": self.columns.record(),
            "modalities": list(self.data.modalities),
            "studies": list(self.data.studies),
            "split": self.split.record(),
        }
        open_run(self.folder, record)
        start = time.perf_counter()
        self.model, fit = train_multiome(
            self.model, self.data, self.rows, config=self.config, folder=self.folder, unlearnt=self.unlearnt,
            is_progress_shown=self.run.progress,
        )  # fmt: skip
        self.seconds["training"] = time.perf_counter() - start
        if (left_out := left_out_of(self.model, self.data.cells, self.run, what=FEATURES)) is not None:
            self.data = replace(self.data, notes=(*self.data.notes, f"warning: {left_out.line()}"))
        self.proteins = told_tokens(self.model)
        calibration = self._calibrate() if self.proteins else None
        start = time.perf_counter()
        embedding_nd = embed_cells(self.model, self.data.cells, self.run)
        self.seconds["embedding"] = time.perf_counter() - start
        told_nf = self._tell(self.data, calibration) if calibration else np.zeros((len(self.data), 0), np.float32)
        self._note(calibration)
        self.model.save(self.folder)
        made = Made(
            model=self.model,
            fit=fit,
            data=self.data,
            split=self.split,
            train=np.union1d(self.rows.train, self.rows.valid),
            test=self.test,
            whole=self.whole,
            embedding_nd=embedding_nd,
            proteins=self.proteins,
            told_nf=told_nf,
            label=Groups(self.columns.label, self.label_n, self.classes),
            tech_batch=Groups(self.columns.tech_batch, self.tech_batch_n, self.tech_batches),
            query=self.query,
            query_told_nf=None if self.query is None or not self.proteins else self._tell(self.query, calibration),
            seed=self.seed,
            seconds=self.seconds,
        )
        evaluation = evaluate_made(made, self.folder)
        write_cells(made, self.folder / "cells.h5ad")
        if evaluation is not None:
            publish(evaluation, self.folder)
        names = tuple(token.partition(":")[2] for token in self.proteins)
        return MultiomeResult(
            model=self.model, fit=fit, data=self.data, embedding_nd=embedding_nd, proteins=names, told_nf=told_nf,
            evaluation=evaluation, folder=self.folder,
        )  # fmt: skip

    def _note(self, calibration: Calibration | None) -> None:
        facts: dict[str, Any] = {"features": "protein" if calibration else "none"}
        if calibration is not None:
            facts = {"calibration": calibration.record(self.proteins)}
        self.model.origin["multiome"] = facts | {"studies": list(self.data.studies)}

    def _as_trained(self, data: Multimodal) -> Any:
        """Return the cells as of the sequencing batch in which most training cells have proteins: answers are of it."""
        if not self.tech_batches:
            return data.cells
        has = self.data.measured("protein")
        code = int(np.bincount(self.tech_batch_n[has], minlength=len(self.tech_batches)).argmax())
        return data.cells.with_obs({"tech_batch": np.full(len(data), code)})

    def _tell(self, data: Multimodal, calibration: Calibration | None, rows: np.ndarray | None = None) -> np.ndarray:
        from cellwright.tasks.multiome import tell_features

        start = time.perf_counter()
        cells = self._as_trained(data)
        said_nf = tell_features(self.model, cells if rows is None else cells.select(rows), self.proteins, self.run)
        self.seconds["telling proteins"] = self.seconds.get("telling proteins", 0.0) + time.perf_counter() - start
        return said_nf if calibration is None else calibration(said_nf)

    def _calibrate(self) -> Calibration:
        from cellwright.tasks.multiome import Calibration

        rows = self.rows.valid
        return Calibration.fit(self._tell(self.data, None, rows), self._measured(self.data, rows))

    def _measured(self, data: Multimodal, rows: np.ndarray) -> np.ndarray:
        return data.feature_values(self.model.vocab.ids(self.proteins), rows)


def _words(modalities: Sequence[str]) -> str:
    from cellwright.data.multimodal import MODALITY_WORDS

    *first, last = sorted((MODALITY_WORDS[name] for name in modalities), key=lambda word: word != "RNA")
    return f"{', '.join(first)} and {last}" if first else last


def _labels(obs: Any, column: str | None) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return codes (-1 = not known) and names of a column of labels."""
    if column is None:
        return None, ()
    if column not in obs:
        near = did_you_mean(column, map(str, obs)) or f"; columns: {', '.join(map(str, obs)) or 'none'}"
        raise ValueError(f"no column {column!r} in obs{near}")
    values = np.array([str(value) for value in obs[column]], dtype=object)
    is_known_n = np.array([value.strip().lower() not in NOT_KNOWN for value in values])
    names = sorted(set(values[is_known_n]))
    if len(names) < 2:
        raise ValueError(f"column {column!r} holds {len(names)} known types; two are needed to score by")
    code_of = {name: k for k, name in enumerate(names)}
    return np.array([code_of.get(value, -1) for value in values], np.int64), tuple(names)
