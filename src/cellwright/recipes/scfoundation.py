"""Recipes of scFoundation: read-depth-aware pre-training (RDA)."""

from __future__ import annotations

from cellwright.models import InputConfig
from cellwright.objectives.config import ObjectiveConfig
from cellwright.recipes.config import DataConfig, Recipe, architecture
from cellwright.train.config import TrainConfig
from cellwright.train.optim import OptimConfig

_READ_DEPTH = ObjectiveConfig(view="read_depth", terms={"masked_value": 1.0})


def scfoundation_tiny() -> Recipe:
    """ScFoundation's pre-training at teaching size: two layers each of width 32, 1,000 variable genes.

    The depth of a cell is that of all its genes, not of the 1,000 alone, so that values are the usual ones.
    """
    return Recipe(
        name="scfoundation_tiny",
        family="scfoundation",
        size="tiny",
        model=architecture("scfoundation", "tiny", encoder_dropout=0.0),
        inputs=InputConfig(genes="panel", depth_from="given"),
        batch_size=8,
        data=DataConfig(num_genes=1000),
        objective=_READ_DEPTH,
        optim=OptimConfig(optimiser="adamw", lr=2e-3, schedule="cosine", warmup_steps=50),
        train=TrainConfig(max_epochs=2, checkpoint_every=400),
    )


def scfoundation_pretrain() -> Recipe:
    """ScFoundation's published pre-training: released size, AdamW 1e-4, 9,766 warm-up steps, 1,024 cells a step.

    The rate stays after the warm-up, for how it falls is not public; 37,000 steps are those of the released weights.
    Published on 64 devices of 2 cells and 8 minibatches a step: keep batch_size x accumulate x devices at 1,024.
    """
    return Recipe(
        name="scfoundation_pretrain",
        family="scfoundation",
        size="released",
        model=architecture("scfoundation", "released"),
        inputs=InputConfig(genes="panel"),
        batch_size=8,
        data=DataConfig(valid_fraction=0.002),
        objective=_READ_DEPTH,
        optim=OptimConfig(optimiser="adamw", lr=1e-4, warmup_steps=9766),
        train=TrainConfig(max_steps=37_000, accumulate=128, precision="bf16-mixed", checkpoint_every=1000),
    )
