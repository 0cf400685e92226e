"""What the verb ``perturb`` leaves behind: scores, predictions, splits, report, and the record of the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellwright.files import atomic_path, write_json
from cellwright.verbs.training import publish

if TYPE_CHECKING:
    from anndata import AnnData

    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.tasks.perturb_saved import SavedPerturb
    from cellwright.verbs.perturbing import PerturbResult


MODEL = "model"
"""Folder of the kept model in that of a run."""


def write_run(result: PerturbResult, folder: Path) -> Evaluation:
    """Write everything into ``folder`` and return the record of the report.

    The folder takes its name only when it is whole, and replaces an earlier run there.
    """
    from cellwright.evaluate.perturbation_tables import calibration_rows

    with atomic_path(folder) as draft:
        draft.mkdir()
        rows = [json.dumps(row.record()) for row in result.scores.rows]
        (draft / "scores.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        (draft / "scores.txt").write_text("\n".join(result.lines()) + "\n", encoding="utf-8")
        write_json(draft / "calibration.json", calibration_rows(result.scores))
        write_json(draft / "splits.json", [split.record() for split in result.splits])
        write_json(draft / "record.json", result.record)
        predictions_anndata(result).write_h5ad(draft / "predictions.h5ad")
        if result.record["options"]["keep_model"]:
            result.saved.save(draft / MODEL)
        evaluation = result.evaluation()
        publish(evaluation, draft)
    return evaluation


def open_saved(folder: Path, device: str | None = None) -> SavedPerturb:
    """Open a kept model by its folder or that of the run."""
    from cellwright.models import load
    from cellwright.tasks.perturb_cells import FittedCells
    from cellwright.tasks.perturb_saved import SavedPerturb

    found = SavedPerturb.load(folder / MODEL if (folder / MODEL).is_dir() else folder, load)
    if device is not None and isinstance(found.fitted, FittedCells):
        found.fitted.config = found.fitted.config.model_copy(update={"device": device})
    return found


def conditions_anndata(saved: SavedPerturb, conditions: Sequence[str]) -> AnnData:
    """Return predicted effects of conditions, a row a condition and context; see `predict_perturbation`."""
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    effect = saved.predict(conditions)
    rows = [(name, context) for name in effect for context in saved.contexts]
    obs = pd.DataFrame(rows, columns=["condition", "context"], index=[f"prediction_{i}" for i in range(len(rows))])
    obs["unknown"] = [", ".join(saved.unknown(name)) for name, _ in rows]
    effect_ng = np.concatenate(list(effect.values()))
    profile_ng = np.tile(saved.control_cg, (len(effect), 1)) + effect_ng
    return AnnData(
        effect_ng.astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=list(saved.genes)),
        layers={"profile": profile_ng.astype(np.float32)},
        uns={"cellwright": {"method": saved.what}},
    )


def joint_sha256(hashes: Sequence[str]) -> str:
    """Return one hash of the splits of all folds."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def predictions_anndata(result: PerturbResult) -> AnnData:
    """Return predictions as AnnData: one row a test profile and fold, or a further condition in a context.

    X: predicted effects (change of mean log expression) of the last model; layers: those of every method, and
    ``observed`` for test profiles (NaN elsewhere). obs: ``condition``, ``context``, ``group``, ``fold`` (-1 = further).
    """
    import numpy as np
    import pandas as pd
    from anndata import AnnData

    screen, made = result.screen, result.predictions
    title = [screen.perturbations.names[screen.perturbations.parts.index(screen.profiles.parts[u])] for u in made.at_e]
    rows = {
        "condition": title + [name for name in result.new for _ in screen.contexts],
        "context": [screen.profiles.context[u] for u in made.at_e] + list(screen.contexts) * len(result.new),
        "group": [*made.group_e, *["new"] * (len(result.new) * len(screen.contexts))],
        "fold": [*made.fold_e.tolist(), *[-1] * (len(result.new) * len(screen.contexts))],
    }
    new_ng = np.concatenate(list(result.new.values())) if result.new else np.zeros((0, len(screen.genes)))
    nothing_ng = np.full(new_ng.shape, np.nan)
    main = list(made.effect_eg)[-1]
    layers = {
        name: np.concatenate([effect_eg, new_ng if name == main else nothing_ng]).astype(np.float32)
        for name, effect_eg in made.effect_eg.items()
    }
    observed_eg = screen.observed_effects(made.at_e)
    layers["observed"] = np.concatenate([observed_eg, nothing_ng]).astype(np.float32)
    obs = pd.DataFrame(rows, index=[f"profile_{i}" for i in range(len(rows["fold"]))])
    return AnnData(layers[main].copy(), obs=obs, var=pd.DataFrame(index=list(screen.genes)), layers=layers)
