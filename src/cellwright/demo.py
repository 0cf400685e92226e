"""The main job end to end: pre-train a small model, fine-tune it on one study, annotate another, compare, report.

On the shipped cells the reference are sorted blood populations (Zheng et al. 2017) and the query is a mixed sample of
another donor and run (10x PBMC 3k), so that the figure is one of transfer between studies. Pre-training sees the
reference only: what the query's cells look like is not known to any method before they are annotated.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from tqdm import tqdm

from cellwright.config import Config
from cellwright.data.cells import open_cells
from cellwright.data.datasets import DATASETS, dataset_path
from cellwright.data.joined import open_together
from cellwright.data.splits import label_codes, split_cells
from cellwright.evaluate.annotation import Contender, run_baselines
from cellwright.evaluate.evaluation import Evaluation, Grouping
from cellwright.evaluate.study import AnnotationStudy, evaluate_study
from cellwright.models import Model
from cellwright.recipes import Recipe, pretrain_model, scgpt_demo
from cellwright.tasks.annotate import AnnotateConfig, annotate_cells, train_annotator
from cellwright.tasks.embed import embed_cells
from cellwright.tasks.inference import InferenceOptions
from cellwright.train.config import TrainConfig
from cellwright.train.optim import OptimConfig
from cellwright.train.run import open_run
from cellwright.verbs.labelled import check_labels, known_classes, without_unknown
from cellwright.verbs.opening import with_left_out
from cellwright.verbs.training import publish

REFERENCE, QUERY, SHIPPED_LABEL = "pbmc_facs_zheng", "pbmc3k", "cell_type_coarse"
TUNED, SCRATCH = "scGPT, pre-trained", "scGPT, from scratch"


class DemoConfig(Config):
    """Everything the demo does, in one record."""

    pretrain: Recipe
    finetune: AnnotateConfig
    seed: int = Field(0, ge=0)

    @classmethod
    def standard(cls, seed: int = 0) -> DemoConfig:
        """Return the demo as shipped: a few minutes on two processor cores."""
        recipe = scgpt_demo()
        train = TrainConfig(max_epochs=3, keep="best", seed=seed, checkpoint_every=500, log_every=10)
        tuning = AnnotateConfig(  # chosen on a third study, see docs/LOG.md
            optim=OptimConfig(lr=3e-4, schedule="cosine", warmup_steps=20, weight_decay=0.01, optimiser="adamw"),
            class_weight="balanced",
            hidden_fraction=0.3,
            train=train,
        )
        pretrain = recipe.override([f"train.seed={seed}"])
        return cls(pretrain=pretrain, finetune=tuning, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo leaves: scores, report, and the fine-tuned model's folder."""

    evaluation: Evaluation
    report: Path
    model: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnData:
    """A user's labelled cells."""

    path: Path
    label: str = "cell_type"
    """Column of obs with the cell types."""
    split_by: str | None = None
    """Column of obs whose groups are held out whole; ``None`` = found by name."""
    assume: str | None = None
    """What the values are: raw | normalised | log1p; ``None`` = detected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Labelled reference cells and query cells."""

    reference: Any
    """AnnData or path; pre-training and fine-tuning see these only."""
    query: Any
    label: str
    title: str
    where: str
    """The query in words."""
    assume: str | None = None
    """What the values are, where that is not left to be detected."""
    summary: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    citations: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()


def run_demo(
    config: DemoConfig,
    out: Path,
    *,
    own: OwnData | None = None,
    is_progress_shown: bool = True,
) -> DemoResult:
    """Do the whole job and write runs and report under ``out``; an earlier demo there is replaced.

    Parameters
    ----------
    config
        What is trained, how long, with which seed.
    out
        Folder; refused when it holds anything but an earlier demo.
    own
        Labelled cells instead of the shipped ones; a fifth of them, in whole groups, becomes the query.
    is_progress_shown
        Show progress bars on standard error.
    """
    job = shipped_job() if own is None else own_job(own, config.seed)
    clear(out)
    demo = Demo(config, job, out, InferenceOptions(seed=config.seed, progress=is_progress_shown))
    demo.pretrain()
    demo.finetune(TUNED, "full")
    demo.finetune(SCRATCH, "scratch")
    demo.run_baselines()
    study = demo.study()
    demo.announce("scoring, drawing and writing the report")
    evaluation = evaluate_study(study)
    return DemoResult(evaluation=evaluation, report=publish(evaluation, out), model=out / "finetuned")


class Demo:
    """The steps of the demo and what they leave for the next one."""

    def __init__(self, config: DemoConfig, job: Job, out: Path, run: InferenceOptions):
        self.config, self.job, self.out, self.run = config, job, out, run
        self.seconds: dict[str, float] = {}
        self.fits: dict[str, tuple[str, Any]] = {}
        self.contenders: list[Contender] = []
        self.models: dict[str, Model] = {}
        self._begin = self._last = time.perf_counter()

    def announce(self, stage: str) -> None:
        """Say on standard error what begins now, where progress is shown."""
        if self.run.progress:
            passed = int(time.perf_counter() - self._begin)
            tqdm.write(f"[{passed // 60}:{passed % 60:02d}] {stage}", file=sys.stderr)

    def _lap(self, stage: str) -> float:
        """Book the time since the last lap on a stage."""
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now
        return self.seconds[stage]

    def pretrain(self) -> None:
        """Pre-train on the reference cells, labels unseen, and open all cells on the new vocabulary."""
        job, recipe = self.job, self.config.pretrain
        self.announce(f"pre-training a new model on the reference, {recipe.train.max_epochs} passes")
        folder = self.out / "pretrained"
        if job.assume is not None:
            recipe = recipe.override([f"data.assume={job.assume}"])
        self.base, fit = pretrain_model(recipe, [job.reference], folder, is_progress_shown=self.run.progress)
        self.fits["pre-training"] = ("pre-training (generative)", fit)
        self._lap("pre-training")
        accepts = self.base.family.accepts
        self.reference, self.query = (
            with_left_out(open_cells(data, self.base.vocab, accepts=accepts, assume=job.assume), self.base, self.run)
            for data in (job.reference, job.query)
        )
        code_n, names = label_codes(self.reference.obs, job.label)
        self.split = split_cells(self.reference.obs, by="cells", valid=0.1, seed=self.config.seed, label=job.label)
        self.code_n, self.classes = known_classes(code_n, names, self.split.train)
        self.reference = self.reference.with_obs({"label": self.code_n})
        self.truth_n = self._truth()
        self._lap("opening data")

    def _truth(self) -> np.ndarray:
        """Return the query's labels as codes of the training classes, -1 where training has no such class."""
        of = {name: k for k, name in enumerate(self.classes)}
        return np.array([of.get(str(label), -1) for label in self.query.obs[self.job.label]], np.int64)

    def finetune(self, name: str, mode: str) -> None:
        """Fine-tune on the reference and annotate the query."""
        self.announce(f"fine-tuning and annotation: {name}")
        rows = without_unknown(self.split, self.code_n)
        config = self.config.finetune.model_copy(update={"mode": mode})
        folder = open_run(
            self.out / ("finetuned" if mode == "full" else mode), config.record() | {"split": self.split.record()}
        )
        tuned, fit = train_annotator(
            self.base,
            self.reference,
            rows,
            self.classes,
            config=config,
            folder=folder,
            is_progress_shown=self.run.progress,
        )
        prob_nk = annotate_cells(tuned, self.query, self.run).prob_nk
        self.models[name], self.fits[name] = tuned, ("fine-tuning (cross entropy)", fit)
        seconds = self._lap(f"fine-tuning and annotation: {name}")
        before = self.seconds["pre-training"] if mode == "full" else 0.0
        what = (
            "pre-trained on the reference's counts, then fine-tuned"
            if mode == "full"
            else "the same network, only fine-tuned"
        )
        self.contenders.append(
            Contender(
                name=name,
                what=what,
                prob_nk=prob_nk,
                is_baseline=False,
                seconds=seconds + before,
                trained_parameters=fit.num_trained,
            )
        )

    def run_baselines(self) -> None:
        """Let the baselines learn from the same training cells, on all genes that both data sets have."""
        self.announce("baselines")
        both, accepts = [self.job.reference, self.job.query], ("raw", "normalised", "log1p")
        joined = open_together(both, specials={}, accepts=accepts, min_cells=1, assume=self.job.assume)
        reference, query = joined.parts
        train = self.split.train
        self.contenders += run_baselines(
            reference.select(train),
            self.code_n[train],
            query,
            num_classes=len(self.classes),
            seed=self.config.seed,
        )
        self._lap("baselines")

    def study(self) -> AnnotationStudy:
        """Put together what was done; reference cells are drawn beside the query's."""
        tuned, job = self.models[TUNED], self.job
        self.announce("embedding for the figures")
        shown = np.sort(np.random.default_rng(self.config.seed).permutation(len(self.reference))[: len(self.query)])
        context = self.reference.select(shown)
        embeddings = [embed_cells(tuned, cells, self.run) for cells in (self.query, context)]
        context_code_n = annotate_cells(tuned, context, self.run).prob_nk.argmax(1)
        study_n = np.repeat([0, 1], [len(self.query), len(context)])
        names = (f"query: {Path(self.query.contract.source).stem}", f"reference: {Path(context.contract.source).stem}")
        self._lap("embedding for the figures")
        rivals = [(TUNED, c.name) for c in self.contenders if c.name not in (TUNED, "majority")]
        return AnnotationStudy(
            title=job.title,
            where=job.where,
            classes=self.classes,
            query=self.query,
            truth_n=self.truth_n,
            contenders=self.contenders,
            main=TUNED,
            against=rivals,
            embedding_nd=np.concatenate(embeddings),
            context={"truth_n": self.code_n[shown], "pred_n": context_code_n},
            groupings={"study": Grouping(study_n, names)},
            contracts={"Reference": self.reference.contract, "Query": self.query.contract},
            fits=self.fits,
            model=tuned,
            split_sha256=self.split.sha256,
            seed=self.config.seed,
            seconds=self.seconds,
            summary=job.summary,
            licences=job.licences,
            citations=job.citations,
            limitations=job.limitations,
        )


def shipped_job() -> Job:
    """Return the transfer between the two shipped studies."""
    records = [DATASETS[name] for name in (REFERENCE, QUERY)]
    return Job(
        reference=dataset_path(REFERENCE),
        query=dataset_path(QUERY),
        label=SHIPPED_LABEL,
        title="Cell types of one blood study, learnt from another",
        where="2,638 cells of 10x PBMC 3k, another donor and run than the training cells",
        summary=(
            "Reference: sorted blood populations (Zheng et al. 2017); labels are the sorting gates.",
            "Query: 10x PBMC 3k; labels are those of a published clustering, joined to the same coarse classes.",
            "Pre-training and fine-tuning saw the reference only. Validation is a tenth of the reference's cells.",
        ),
        licences=tuple(f"{record.name}: {record.licence}" for record in records),
        citations=tuple(record.citation for record in records),
        limitations=(
            "The network is of teaching size and was pre-trained on a few thousand cells: the figures say nothing of "
            "published models.",
            "One transfer, one training seed; intervals are over query cells only.",
            "Another training seed moves the score of a network by about .03.",
            "Settings were chosen on a third study, not on the query.",
            "The query's labels come from clustering, the reference's from sorting: some disagreement is theirs.",
        ),
    )


def own_job(own: OwnData, seed: int) -> Job:
    """Hold out a fifth of a user's cells, in whole groups where there are any, as the query."""
    from cellwright.data.write import read_anndata

    adata = read_anndata(own.path)
    label_codes(adata.obs, own.label)
    split = split_cells(adata.obs, by=own.split_by, valid=0.0, test=0.2, seed=seed, label=own.label)
    check_labels(*label_codes(adata.obs.iloc[split.train], own.label), own.label)  # before minutes of pre-training
    how = "random cells" if split.by == "cells" else f"{split.by} {', '.join(split.groups['test'])}"
    return Job(
        reference=adata[split.train],
        query=adata[split.test],
        label=own.label,
        assume=own.assume,
        title=f"Cell types of {own.path.name}, learnt from part of it",
        where=f"{len(split.test):,} held-out cells ({how})",
        summary=(f"Held out: {how}.", *split.notes),
        limitations=("One split, one training seed; intervals are over query cells only.",),
    )


def clear(out: Path) -> None:
    """Make room for a demo: only folders of an earlier one are removed."""
    if not out.exists():
        return
    known = {
        "pretrained", "finetuned", "scratch", "evaluation.json", "cells.npz", "figures", "report.html", "results.jsonl",
    }  # fmt: skip
    if not out.is_dir() or {p.name for p in out.iterdir()} - known:
        raise ValueError(f"{out} holds other files than an earlier demo; choose another folder with --out")
    for path in out.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
