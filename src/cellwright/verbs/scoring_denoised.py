"""Scoring of denoised cells, the half of `cellwright.score` that opens and checks."""

from __future__ import annotations

from cellwright.evaluate.denoised import DenoisingStudy
from cellwright.evaluate.denoising_study import evaluate_denoising
from cellwright.evaluate.evaluation import Evaluation
from cellwright.tasks.denoise import check_denoises
from cellwright.tokens.depth import DepthTarget
from cellwright.verbs.depths import open_deep
from cellwright.verbs.scoring import Asked


def evaluate_denoise(asked: Asked) -> tuple[Evaluation, None]:
    """Score the values that a model gives thinned cells; return the record."""
    if asked.made is not None:
        raise ValueError("made cells belong to the task generate; denoise thins real ones")
    model, config = asked.model, asked.config
    check_denoises(model, DepthTarget("fold", 2.0))
    study = DenoisingStudy(
        model=model,
        source=open_deep(asked.held_out, model, config.reading),
        train=None if asked.train is None else open_deep(asked.train, model, config.reading),
        label=asked.label,
        group=config.group,
        shares=sorted(set(config.shares)),
        further=config.further,
        num_cells=config.num_query,
        num_resamples=config.num_resamples,
        seed=config.seed,
    )
    return evaluate_denoising(study, asked.run), None
