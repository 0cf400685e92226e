"""The command that predicts perturbations."""

from __future__ import annotations

from pathlib import Path

from cellwright.commands.saying import say
from cellwright.tasks.inference import InferenceOptions, RunOptions
from cellwright.tasks.screen import ScreenOptions
from cellwright.verbs import ModelOptions
from cellwright.verbs.perturbing import PerturbConfig, PerturbOptions
from cellwright.verbs.reversing import ReverseOptions


class VectorOptions(ModelOptions):
    """What methods are fed beside the screen."""

    model: str | None = None
    """Model whose gene embeddings feed a second graph model, or that is fine-tuned itself; see --use."""
    embedding: str | None = None
    """Gene embedding to feed a graph model instead: .npz with genes (names) and values (genes x size)."""


def perturb(
    data: Path,
    *,
    out: Path,
    gene_sets: Path | None = None,
    predict: list[str] | None = None,
    set_: list[str] | None = None,
    vectors: VectorOptions,
    screen: ScreenOptions,
    how: PerturbOptions,
    run: RunOptions,
) -> None:
    """Predict held-out perturbations with trained models and every baseline, and write scores and a report to OUT.

    Parameters
    ----------
    data
        Cells with known perturbations and controls: .h5ad, 10x .h5 or matrix folder, .zarr.
    out
        Folder to write: scores, predictions, splits, figures, record.
    gene_sets
        Gene sets (.gmt) that the graph between perturbed genes is built from; unset = co-expression among controls.
    predict
        Further condition to predict, A or A+B; may be repeated.
    set
        Change how methods are trained: --set graph.width=32 --set cells.lr=0.001.
    """
    from cellwright import verbs

    result = verbs.perturb(
        data,
        options=how,
        screen=screen,
        gene_sets=gene_sets,
        model=None if vectors.model is None else verbs.open_model(vectors.model, vectors.vocab, key=vectors.key),
        embedding=vectors.embedding,
        predict=predict or [],
        config=_config(set_, run),
        run=InferenceOptions(**run.record(), seed=how.seed),
    )
    result.save(out)
    say([*result.screen.contract.lines()[:1], *result.lines(), f"wrote {out}"])


def reverse_perturb(
    data: Path,
    *,
    out: Path,
    state: Path | None = None,
    gene_sets: Path | None = None,
    set_: list[str] | None = None,
    vectors: VectorOptions,
    screen: ScreenOptions,
    how: ReverseOptions,
    run: RunOptions,
) -> None:
    """Rank perturbations by how near they bring cells to a wanted state, test that on held-out ones, write to OUT.

    Parameters
    ----------
    data
        Cells with known perturbations and controls: .h5ad, 10x .h5 or matrix folder, .zarr.
    out
        Folder to write: scores, report, record, and ranking.tsv for a wanted state.
    state
        Cells as they are wanted; unset = only test.
    gene_sets
        Gene sets (.gmt) that the graph between perturbed genes is built from; unset = co-expression among controls.
    set
        Change how methods are trained: --set graph.width=32 --set cells.lr=0.001.
    """
    from cellwright import verbs

    result = verbs.reverse_perturb(
        data,
        state=state,
        options=how,
        screen=screen,
        gene_sets=gene_sets,
        model=None if vectors.model is None else verbs.open_model(vectors.model, vectors.vocab, key=vectors.key),
        embedding=vectors.embedding,
        config=_config(set_, run),
        run=InferenceOptions(**run.record(), seed=how.seed),
    )
    result.save(out)
    say([*result.screen.contract.lines()[:1], *result.lines(), f"wrote {out}"])


def _config(changes: list[str] | None, run: RunOptions) -> PerturbConfig:
    """Return how methods are trained: where the model is run, unless that is changed by itself."""
    return PerturbConfig().override([f"cells.device={run.device}", *(changes or [])])


def predict_perturbation(model: Path, *, out: Path, predict: list[str], device: str = "auto") -> None:
    """Ask a model that "perturb --keep-model" kept what further conditions would do, and write .h5ad.

    Parameters
    ----------
    model
        Folder of that run.
    out
        .h5ad to write: a row a condition and context, X = change of mean log expression.
    predict
        Condition, A or A+B; may be repeated.
    device
        Where to run a fine-tuned cell model: auto | cpu | cuda | mps.
    """
    from cellwright import verbs
    from cellwright.data.write import check_place
    from cellwright.files import atomic_path

    check_place(out)
    if out.suffix != ".h5ad":
        raise ValueError(f"{out} is no .h5ad file; give a name that ends so (--out)")
    made = verbs.predict_perturbation(model, predict, device=device)
    with atomic_path(out) as draft:
        made.write_h5ad(draft)
    unknown = sorted({f"{row.condition} ({row.unknown})" for row in made.obs.itertuples() if row.unknown})
    lines = [f"warning: not known to the model, so without effect: {', '.join(unknown)}"] if unknown else []
    say([*lines, f"wrote {out}: {made.n_obs} predictions of {made.n_vars} genes"])
