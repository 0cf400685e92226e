"""What the verb ``perturb`` leaves behind: scores, predictions, splits, figures, and the record of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cellwright.files import atomic_path, write_json

if TYPE_CHECKING:
    from cellwright.verbs.perturbing import PerturbResult


def write_run(result: PerturbResult, folder: Path) -> None:
    """Write everything into ``folder``; it takes its name only when it is whole, and replaces an earlier run there."""
    from cellwright.evaluate.perturbation_figures import effects_figure, middle_entry, top_genes_figure
    from cellwright.evaluate.perturbation_tables import MEAN, calibration_rows
    from cellwright.verbs.perturbing import predictions_anndata

    screen, made = result.screen, result.predictions
    main = list(made.effect_eg)[-1]
    with atomic_path(folder) as draft:
        draft.mkdir()
        rows = [json.dumps(row.record()) for row in result.scores.rows]
        (draft / "scores.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        (draft / "scores.txt").write_text("\n".join(result.lines()) + "\n", encoding="utf-8")
        write_json(draft / "calibration.json", calibration_rows(result.scores))
        write_json(draft / "splits.json", [split.record() for split in result.splits])
        write_json(draft / "record.json", result.record)
        predictions_anndata(result).write_h5ad(draft / "predictions.h5ad")
        (draft / "effects.svg").write_bytes(effects_figure(screen, made, main))
        entry = middle_entry(made, screen)
        (draft / "top-genes.svg").write_bytes(top_genes_figure(screen, made, [main, MEAN], entry=entry))
