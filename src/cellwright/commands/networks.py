"""The command that makes gene networks."""

from __future__ import annotations

from pathlib import Path

from cellwright.commands.saying import say
from cellwright.config import Config
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs import ModelOptions, NetworkOptions, ReadOptions


class KnownOptions(Config):
    """What is known of the genes."""

    regulators: str | None = None
    """File with one gene a line; unset = the regulators of --targets."""
    targets: str | None = None
    """Known targets: table with columns regulator and target, or JSON of regulator -> list. Scores beside baselines."""
    gene_sets: str | None = None
    """.gmt file that modules are tested against."""


def grn(
    model: str,
    data: Path,
    *,
    out: Path,
    which: ModelOptions,
    known: KnownOptions,
    how: NetworkOptions,
    read: ReadOptions,
    run: InferenceOptions,
) -> None:
    """Rank targets of regulators by a model's vectors of genes or its attention, find gene modules, and score both.

    Parameters
    ----------
    model
        Official checkpoint folder or file, cellwright checkpoint or run folder, or the name of a shipped model.
    data
        Cells: .h5ad, 10x .h5 or matrix folder, .zarr.
    out
        Folder to write, new or empty: targets.tsv (and targets_SETTING.tsv for the other settings of attention),
        modules.tsv, module_scores.tsv, enrichment.tsv, grn.json, and a report where there are known targets.
    """
    from cellwright import verbs

    network = verbs.grn(
        data,
        verbs.open_model(model, which.vocab, key=which.key),
        regulators=Path(known.regulators) if known.regulators else (),
        targets=known.targets,
        gene_sets=known.gene_sets,
        out=out,
        config=how,
        read=read,
        run=run,
    )
    if network.ranked is not None:
        say([f"{len(network.ranked.regulators)} regulators, {len(network.ranked.genes)} genes"])
    if network.modules:
        say([f"{len(network.modules)} modules of {min(map(len, network.modules))} to {len(network.modules[0])} genes"])
    if network.evaluation is not None:
        from cellwright.evaluate.comparison import table_text

        say([table_text(network.evaluation)])
    say([*(f"warning: {line}" for line in network.record["contract"]["warnings"]), f"wrote {out}"])
