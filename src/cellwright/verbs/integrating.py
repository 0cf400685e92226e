"""The verb that puts several sequencing batches into one space: as a model is, or fine-tuned for it; scored either way.

Published scGPT: fine-tuning on the cells themselves without their types. Every run is scored beside simple ways.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cellwright.config import did_you_mean
from cellwright.models import Model
from cellwright.models.adapt import adapted
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.integration_options import IntegrationScoring, check_scoring
from cellwright.verbs.opening import ReadOptions, check_new, open_model, with_left_out, with_tech_batches
from cellwright.verbs.training import publish, removed_if_futile
from cellwright.verbs.using import provenance

if TYPE_CHECKING:
    from cellwright.data.cells import Cells
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.evaluate.integration import Contender, Groups
    from cellwright.tasks.integrate import IntegrateConfig
    from cellwright.train.run import FitResult

MODES = ("zero_shot", "full", "lora", "probe", "blocks", "scratch")
CELLS_FILE, MODEL_FOLDER = "integrated.h5ad", "model"


class IntegrateOptions(IntegrationScoring):
    """How an integration is scored, written and read."""

    slot: str | None = None
    """Slot of obsm to write; unset = X_<family>."""
    reading: ReadOptions = ReadOptions()
    """How the cells are read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Integration:
    """Cells in one space, and how well that went."""

    embedding_nd: np.ndarray
    """float32 ``[n, d]``, rows in the order of the data."""
    model: Model
    """The model that made it: fine-tuned, or as it was."""
    evaluation: Evaluation
    fit: FitResult | None
    """How training went; ``None`` = zero-shot."""
    record: dict[str, Any]
    folder: Path | None


def integrate(
    adata: Any,
    model: Model | str | Path,
    *,
    tech_batch: str,
    label: str | None = None,
    mode: Literal["zero_shot", "full", "lora", "probe", "blocks", "scratch"] = "zero_shot",
    out: str | Path | None = None,
    changes: Sequence[str] = (),
    config: IntegrateOptions | None = None,
    run: InferenceOptions | None = None,
) -> Integration:
    """Embed cells of several sequencing batches in one space, and score it beside simple ways to do so.

    Parameters
    ----------
    adata
        AnnData or path, see `embed`; raw counts where scVI is to be compared with. An AnnData is not changed.
    model
        A loaded model, a path, or the name of a shipped one. It is not changed.
    tech_batch
        Column of obs with the sequencing batches; none may be missing.
    label
        Column of obs with cell types, for scores only: training never sees them. Cells without one are not scored.
    mode
        zero_shot: the model as it is. Others fine-tune a copy on these cells by scGPT's recipe: full (all weights),
        lora (low-rank changes), probe (new parts only), blocks (new parts and some blocks), scratch (all weights, newly
        drawn).
    out
        Folder to make, new or empty: ``integrated.h5ad`` (the data with the embedding), ``model`` (when trained) and
        the report. Needed for training.
    changes
        Changes to `cellwright.tasks.integrate.IntegrateConfig` such as ``"train.max_epochs=5"``.
    config
        How it is scored and read.
    run
        How the model is run; its seed is that of scores and baselines too.

    Returns
    -------
    `Integration`: the embedding, the model, scores of all methods.

    Raises
    ------
    ValueError
        When an option, a column or the folder cannot be used; nothing is left behind then.

    Examples
    --------
    >>> done = cellwright.integrate(adata, model, tech_batch="batch", label="cell_type")  # doctest: +SKIP
    >>> adata.obsm["X_scGPT"] = done.embedding_nd  # doctest: +SKIP
    """
    config, run = config or IntegrateOptions(), run or InferenceOptions()
    _check_asked(mode, out, changes)
    check_scoring(config, has_labels=label is not None)
    work = _Work(adata, open_model(model), tech_batch, label, config, run)
    trained = None if mode == "zero_shot" else work.fine_tuning(mode, changes)
    if out is None:
        return work.finished(None, None)
    out = Path(out)
    with removed_if_futile(out):
        done = work.finished(trained, out)
        work.write(done, out)
    return done


def _check_asked(mode: str, out: str | Path | None, changes: Sequence[str]) -> None:
    if mode not in MODES:
        near = did_you_mean(mode, MODES) or f"; choose {', '.join(MODES)}"
        raise ValueError(f"mode = {mode!r}{near}")
    if mode == "zero_shot" and changes:
        raise ValueError(
            f"{changes[0]!r} changes a training, and zero_shot trains nothing; choose a mode (mode, --mode)"
        )
    if out is None and mode != "zero_shot":
        raise ValueError("a fine-tuned model needs a folder to be written to; give out (-o)")
    if out is not None:
        check_new(out)


class _Work:
    """A model, cells with their groups, and what is done with them."""

    def __init__(
        self, adata: Any, model: Model, tech_batch: str, label: str | None, config: IntegrateOptions, run: Any
    ):
        from cellwright.data.cells import open_cells
        from cellwright.tasks.integrate import check_batches

        self.adata, self.base, self.config, self.run = adata, model, config, run
        self.read = config.reading.model_copy(update={"tech_batch": tech_batch})
        source = open_cells(adata, model.vocab, accepts=model.family.accepts, **self.read.of_matrix())
        self.source = with_left_out(source, model, run)
        self.tech_batch, self.label = groups_of(self.source, tech_batch, label, config.unlabelled)
        check_batches(self.tech_batch.code_n, self.tech_batch.names)
        self.seconds: dict[str, float] = {}
        self._genes: np.ndarray | None = None

    def fine_tuning(self, mode: str, changes: Sequence[str]) -> IntegrateConfig:
        """Return how the model is to be fine-tuned, checked as far as it can be without training."""
        from cellwright.tasks.integrate import IntegrateConfig, check_config

        if given := next((c for c in changes if c.partition("=")[0].strip() == "mode"), None):
            raise ValueError(f"{given!r}: give the mode by itself (mode, --mode)")
        config = IntegrateConfig().override([f"mode={mode}", *changes])
        check_config(config)
        self._genes = self._choose_genes(config.num_genes)
        return config

    def _choose_genes(self, num_genes: int) -> np.ndarray:
        from cellwright.data.panel import select_genes_of_groups

        start = time.perf_counter()
        num = min(num_genes, int((self.source.values().getnnz(axis=0) > 0).sum()))  # small panels are taken whole
        chosen = select_genes_of_groups(self.source, num, self.tech_batch.code_n)
        self.seconds["choosing genes"] = time.perf_counter() - start
        return chosen

    def finished(self, training: IntegrateConfig | None, out: Path | None) -> Integration:
        """Embed, fine-tune first where that is asked for, and score."""
        from cellwright.tasks.integrate import IntegrateConfig

        if self._genes is None:
            self._genes = self._choose_genes(IntegrateConfig().num_genes)
        model, fit, contenders = self.base, None, []
        if training is not None:
            model, fit = self._train(training, out / MODEL_FOLDER)
            name = f"{model.family.title}, " + ("from scratch" if training.mode == "scratch" else "fine-tuned")
            what = f"{model.num_parameters:,} parameters, trained on these cells without their types ({training.mode})"
            contenders.append(self._contender(model, name, what, fit))
        if training is None or not self.base.tech_batches:
            contenders += self._as_it_came()
        evaluation = self._evaluate(model, contenders, fit, training)
        record = provenance(model, self.source, self.run) | {
            "integration": {
                "mode": "zero_shot" if training is None else training.mode,
                "tech_batch": self.tech_batch.column,
                "tech_batches": list(self.tech_batch.names),
            }
        }
        return Integration(
            embedding_nd=contenders[0].embedding_nd,
            model=model,
            evaluation=evaluation,
            fit=fit,
            record=record,
            folder=out,
        )

    def _as_it_came(self) -> list[Contender]:
        """Return the model as it came, and newly drawn: what pre-training is worth is the difference."""
        title = self.base.family.title
        found = [self._contender(self.base, f"{title}, zero-shot", "the model as it came, on all its genes")]
        if not self.base.tech_batches:  # else its norms would know nothing of the batches
            untrained = self.base.fresh(self.run.seed)
            what = "the same network with newly drawn weights: what pre-training gives is the difference"
            found.append(self._contender(untrained, f"{title}, untrained", what, is_baseline=True))
        return found

    def _contender(
        self, model: Model, name: str, what: str, fit: FitResult | None = None, *, is_baseline: bool = False
    ) -> Contender:
        from cellwright.evaluate.integration import Contender
        from cellwright.tasks.embed import embed_cells

        start = time.perf_counter()
        source = with_tech_batches(self.source, model, self.read) if model.tech_batches else self.source
        embedding_nd = embed_cells(model, source, self.run)
        self.seconds[f"embedding, {name}"] = time.perf_counter() - start
        return Contender(
            name=name, what=what, embedding_nd=embedding_nd, is_baseline=is_baseline,
            seconds=self.seconds[f"embedding, {name}"] + (0 if fit is None else fit.seconds),
            trained_parameters=None if fit is None else fit.num_trained,
        )  # fmt: skip

    def _train(self, config: IntegrateConfig, folder: Path) -> tuple[Model, FitResult]:
        from cellwright.data.tech_batches import TECH_BATCH, tech_batch_codes
        from cellwright.tasks.integrate import architecture_changes, joined_names, train_integrator
        from cellwright.train.run import open_run

        names = joined_names(self.base.tech_batches, self.tech_batch.names)
        made = adapted(
            self.base, architecture_changes(self.base, len(names), config), redraw=config.redraw,
            seed=config.train.seed,
        )  # fmt: skip
        code_n = tech_batch_codes(self.source.obs, self.tech_batch.column, names)
        record = config.record() | {
            "task": "integrate",
            "model": {"source": self.base.report.source, "sha256": self.base.sha256()},
            "adapted": made.record(),
            "contract": self.source.contract.record(),
            "tech_batch": {"column": self.tech_batch.column, "names": list(names)},
        }
        open_run(folder, record)
        tuned, fit = train_integrator(
            made.model,
            self.source.with_obs({TECH_BATCH: code_n}),
            names,
            [self.base.vocab.tokens[gene] for gene in self._genes],
            config=config,
            folder=folder,
            unlearnt=made.unlearnt,
            is_progress_shown=self.run.progress,
        )
        tuned.origin["tech_batches"] = {"column": self.tech_batch.column, "names": list(names)}
        tuned.save(folder)
        self.seconds["fine-tuning"] = fit.seconds
        return tuned, fit

    def _evaluate(
        self, model: Model, contenders: list[Contender], fit: FitResult | None, training: IntegrateConfig | None
    ) -> Evaluation:
        from cellwright.evaluate.integration import IntegrationStudy, evaluate_integration

        name = self.source.contract.title
        one = "One data set, one seed" + ("." if training is None else " of training.")
        return evaluate_integration(
            IntegrationStudy(
                title=f"Integration of {name}",
                dataset=name,
                source=self.source,
                contenders=contenders,
                tech_batch=self.tech_batch,
                label=self.label,
                gene_ids=self._genes,
                scoring=self.config,
                seed=self.run.seed,
                model=model,
                fits={} if fit is None else {"fine-tuning": ("weighted sum of the terms", fit)},
                seconds=self.seconds,
                limitations=(one,),
            )
        )

    def write(self, done: Integration, out: Path) -> None:
        """Write the cells with their embedding, and the report."""
        from cellwright.data.write import check_key, write_h5ad

        slot = check_key("obsm", done.model.key if self.config.slot is None else self.config.slot)
        uns = {"cellwright": {slot: done.record}}
        write_h5ad(self.adata, out / CELLS_FILE, obsm={slot: done.embedding_nd}, uns=uns)
        publish(done.evaluation, out)


def groups_of(
    source: Cells, tech_batch: str, label: str | None, unlabelled: str | None
) -> tuple[Groups, Groups | None]:
    """Read the columns of sequencing batches and of cell types; cells without a type get -1.

    Raises
    ------
    ValueError
        A column is not there, a cell has no batch, or fewer than two types are left.
    """
    import pandas as pd

    from cellwright.data.splits import label_codes
    from cellwright.evaluate.integration import Groups

    obs = source.obs
    code_n, names = label_codes(obs, tech_batch)
    batches = Groups(column=tech_batch, code_n=code_n, names=names)
    if label is None:
        return batches, None
    if label not in obs.columns:
        known = [str(name) for name in obs.columns]
        raise ValueError(f"no column {label!r} in obs{did_you_mean(label, known) or '; it has ' + ', '.join(known)}")
    values = obs[label].astype("string")
    if unlabelled is not None:
        if not (values == unlabelled).any():
            raise ValueError(f"no cell has {unlabelled!r} in column {label!r}, which unlabelled says means no label")
        values = values.mask(values == unlabelled)
    code_n, names = pd.factorize(values, sort=True)
    if len(names) < 2:
        raise ValueError(
            f"column {label!r} holds {len(names)} types; at least two are needed to score that they stay apart"
        )
    return batches, Groups(column=label, code_n=code_n.astype(np.int64), names=tuple(map(str, names)))
