"""The command that predicts perturbations."""

from __future__ import annotations

from pathlib import Path

from cellwright.commands.saying import say
from cellwright.tasks.perturb_graph import GraphConfig
from cellwright.tasks.screen import ScreenOptions
from cellwright.verbs.perturbing import PerturbOptions


def perturb(
    data: Path,
    *,
    out: Path,
    gene_sets: Path | None = None,
    model: str | None = None,
    embedding: Path | None = None,
    predict: list[str] | None = None,
    set_: list[str] | None = None,
    screen: ScreenOptions,
    how: PerturbOptions,
) -> None:
    """Predict held-out perturbations with a graph model and every baseline, and write scores and predictions to OUT.

    Parameters
    ----------
    data
        Cells with known perturbations and controls: .h5ad, 10x .h5 or matrix folder, .zarr.
    out
        Folder to write: scores, predictions, splits, figures, record.
    gene_sets
        Gene sets (.gmt) that the graph between perturbed genes is built from; unset = co-expression among controls.
    model
        Model whose context gene embeddings feed a second graph model.
    embedding
        Gene embedding to feed it instead: .npz with genes (names) and values (genes x size).
    predict
        Further condition to predict, A or A+B; may be repeated.
    set
        Change the graph model: --set width=32 --set lr=0.001.
    """
    from cellwright import verbs

    config = GraphConfig().override(set_ or [])
    result = verbs.perturb(
        data,
        options=how,
        screen=screen,
        gene_sets=gene_sets,
        model=model,
        embedding=embedding,
        predict=predict or [],
        config=config,
    )
    result.save(out)
    say([*result.screen.contract.lines()[:1], *result.lines(), f"wrote {out}"])
