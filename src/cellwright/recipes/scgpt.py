"""Recipes of scGPT."""

from __future__ import annotations

from cellwright.objectives.published import scgpt_pretraining
from cellwright.recipes.config import DataConfig, Recipe, architecture
from cellwright.train.config import TrainConfig
from cellwright.train.optim import OptimConfig


def scgpt_tiny() -> Recipe:
    """ScGPT's pre-training at teaching size: two layers of width 64, minutes on a laptop."""
    return Recipe(
        name="scgpt_tiny",
        family="scgpt",
        size="tiny",
        model=architecture("scgpt", "tiny"),
        data=DataConfig(num_genes=2000),
        objective=scgpt_pretraining(),
        optim=OptimConfig(lr=1e-3, schedule="cosine", warmup_steps=20),
        train=TrainConfig(max_epochs=3, checkpoint_every=200),
    )


def scgpt_demo() -> Recipe:
    """ScGPT's pre-training as the demo runs it: two layers of width 64 on 1,200 variable genes."""
    return Recipe(
        name="scgpt_demo",
        family="scgpt",
        size="tiny",
        model=architecture("scgpt", "tiny", dropout=0.0),
        data=DataConfig(num_genes=1200),
        objective=scgpt_pretraining(),
        optim=OptimConfig(lr=2e-3, schedule="cosine", warmup_steps=20),
        train=TrainConfig(max_epochs=4, checkpoint_every=500),
    )


def scgpt_pretrain() -> Recipe:
    """ScGPT's published pre-training: released size, Adam 1e-4, 10,000 warm-up steps, cosine, 6 epochs, clipped at 1.

    Published on 16 devices of 32 cells, in half precision. Differences: the loss of the prompted pass counts from the
    first step; bfloat16 in the place of float16 with scaled gradients.
    """
    return Recipe(
        name="scgpt_pretrain",
        family="scgpt",
        size="released",
        model=architecture("scgpt", "released"),
        data=DataConfig(valid_fraction=0.003),
        objective=scgpt_pretraining(),
        optim=OptimConfig(lr=1e-4, schedule="cosine", warmup_steps=10_000),
        train=TrainConfig(max_epochs=6, precision="bf16-mixed", checkpoint_every=5000, keep="best"),
    )
