"""Training runs of a comparison of ways of fine-tuning: each in its folder, made once, taken as it is when finished."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator
from tqdm import tqdm

from cellwright.config import Config, record_differences
from cellwright.files import atomic_path, read_json, sha256_file, write_json
from cellwright.models import Model, load
from cellwright.tasks.inference import InferenceOptions
from cellwright.verbs.labelled import LabelledCells, annotation_record

if TYPE_CHECKING:
    from cellwright.evaluate.mode_sections import ModeRun
    from cellwright.evaluate.study import AnnotationStudy
    from cellwright.tasks.annotate import AnnotateConfig

RECIPE, RUN, ANSWERS = "recipe.json", "run.json", "answers.npz"
_UNNAMED = ("model.source", "contract.source", "train.accelerator", "train.devices", "train.log_every")
"""Parts of a recipe that change nothing in a finished run."""

Mode = Literal["probe", "blocks", "lora", "full", "scratch"]


class CompareOptions(Config):
    """Which ways of fine-tuning are compared, how often each is trained, and which cells are held out."""

    modes: tuple[Mode, ...] = ("probe", "lora", "full", "scratch")
    """Ways of fine-tuning, see `cellwright.tasks.annotate.AnnotateConfig`."""
    seeds: int = Field(3, ge=1)
    """Training seeds of each way: from ``train.seed`` on. The split is the same for all."""
    split_by: str | None = None
    """Column of obs whose groups are held out whole; ``None`` = found by name, else random cells; ``"cells"``."""
    held_out: tuple[str, ...] = ()
    """Names of the groups of ``split_by`` that are held out; a tenth of the other cells, at random, then chooses the
    weights. Empty = about a fifth of the cells, in groups that are drawn."""

    @field_validator("modes")
    @classmethod
    def _are_different(cls, modes: tuple[str, ...]) -> tuple[str, ...]:
        if not modes or len(set(modes)) != len(modes):
            raise ValueError("name each way once, at least one")
        return modes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRuns:
    """The runs of one comparison, in folders of their own."""

    model: Model
    cells: LabelledCells
    configs: Mapping[str, AnnotateConfig]
    folder: Path
    options: InferenceOptions
    data_sha256: str
    """Of the values that are read, all cells."""

    def make(self, how: CompareOptions) -> dict[str, tuple[ModeRun, ...]]:
        """Return every run, those that lack made now; one seed of all ways after another, so that whole seeds last."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / RECIPE, self.record(how))
        found: dict[str, list[ModeRun]] = {mode: [] for mode in how.modes}
        for number in range(how.seeds):
            for mode in how.modes:
                found[mode].append(self.run(mode, self.configs[mode].train.seed + number))
        return {mode: tuple(runs) for mode, runs in found.items()}

    def record(self, how: CompareOptions) -> dict[str, Any]:
        """Return what the comparison is, in JSON form."""
        ways = {mode: config.record() for mode, config in self.configs.items()}
        shared = annotation_record(self.cells, self.model, self.configs[how.modes[0]])
        names = ("task", "model", "contract", "label", "split")
        return {"compare": how.record(), "ways": ways} | {name: shared[name] for name in names}

    def check_folder(self, how: CompareOptions) -> None:
        """Refuse a folder that holds something else, or a run of these ways and seeds that was made otherwise."""
        from cellwright.data.write import check_place

        check_place(self.folder)
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return
        recipe = self.folder / RECIPE
        is_ours = recipe.is_file() and isinstance(read_json(recipe), dict) and "compare" in read_json(recipe)
        if not is_ours:
            raise ValueError(f"{self.folder} holds other files than a comparison; choose a folder that is new or empty")
        for mode in how.modes:
            for number in range(how.seeds):
                seed = self.configs[mode].train.seed + number
                place = self.place(mode, seed)
                if (place / RECIPE).is_file():
                    self._check_run(place, self.recipe(mode, seed))

    def _check_run(self, place: Path, recipe: Mapping[str, Any]) -> None:
        for name, before, now in record_differences(read_json(place / RECIPE), recipe):
            if name not in _UNNAMED:
                raise ValueError(
                    f"the run in {place} was made with {name} = {before!r}, not {now!r}; choose another folder for "
                    "this comparison"
                )

    def place(self, mode: str, seed: int) -> Path:
        """Return the folder of a run."""
        return self.folder / mode / f"seed_{seed}"

    def config(self, mode: str, seed: int) -> AnnotateConfig:
        """Return the options of a run."""
        config = self.configs[mode]
        return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})

    def recipe(self, mode: str, seed: int) -> dict[str, Any]:
        """Return the recipe of a run in JSON form."""
        record = annotation_record(self.cells, self.model, self.config(mode, seed))
        asked = self.options.record()
        prediction = {name: asked[name] for name in ("seed", "ties", "max_length", "precision")}
        return record | {"data_sha256": self.data_sha256, "prediction": prediction}

    def run(self, mode: str, seed: int) -> ModeRun:
        """Return a run: the finished one in its folder, or one that is made now."""
        place = self.place(mode, seed)
        if (place / RUN).is_file():
            return self._finished(place, mode, seed)
        if self.options.progress:
            tqdm.write(f"fine-tuning: {mode}, seed {seed}", file=sys.stderr)
        if place.exists():  # cut short
            shutil.rmtree(place)
        return self._train(place, mode, seed)

    def _train(self, place: Path, mode: str, seed: int) -> ModeRun:
        from cellwright.evaluate.mode_sections import ModeRun
        from cellwright.tasks.annotate import annotate_cells, train_annotator
        from cellwright.train.memory import peak_memory
        from cellwright.train.run import open_run

        cells, start = self.cells, time.perf_counter()
        open_run(place, self.recipe(mode, seed))
        with peak_memory() as memory:
            tuned, fit = train_annotator(
                self.model,
                cells.source,
                cells.rows,
                cells.classes,
                config=self.config(mode, seed),
                folder=place,
                is_progress_shown=self.options.progress,
            )
        seconds = time.perf_counter() - start
        prob_nk = annotate_cells(tuned, cells.query, self.options).prob_nk
        with atomic_path(place / ANSWERS) as draft, draft.open("wb") as file:
            np.savez_compressed(file, prob_nk=prob_nk)
        facts = {
            "seconds": seconds,
            "trained_parameters": fit.num_trained,
            "num_parameters": fit.num_parameters,
            "num_steps": fit.num_steps,
            "best_step": fit.best_step,
            "best_loss": fit.best_loss,
            "peak_memory_gb": memory.gb,
            "highest_memory_gb": memory.highest_gb,
        }
        write_json(place / RUN, facts | {"answers_sha256": sha256_file(place / ANSWERS)})  # last: now it is finished
        return ModeRun(mode=mode, seed=seed, prob_nk=prob_nk, **facts)

    def _finished(self, place: Path, mode: str, seed: int) -> ModeRun:
        from cellwright.evaluate.mode_sections import ModeRun

        facts = read_json(place / RUN)
        if not (place / ANSWERS).is_file() or sha256_file(place / ANSWERS) != facts.pop("answers_sha256", None):
            raise ValueError(f"{place / ANSWERS} is missing or damaged; remove {place}, and the run is made again")
        with np.load(place / ANSWERS, allow_pickle=False) as archive:
            return ModeRun(mode=mode, seed=seed, prob_nk=archive["prob_nk"], **facts)

    def embedding(self, drawn: ModeRun) -> np.ndarray:
        """Return the held-out cells' embedding by the run whose answers are drawn."""
        from cellwright.tasks.embed import embed_cells

        return embed_cells(load(self.place(drawn.mode, drawn.seed)), self.cells.query, self.options)

    def described(self, about: AnnotationStudy, runs: Mapping[str, Sequence[ModeRun]]) -> AnnotationStudy:
        """Return the study of the cells with curves of every way's first run, and what limits it."""
        from cellwright.evaluate.apart import seen_in_training
        from cellwright.evaluate.mode_sections import WORDS
        from cellwright.train.callbacks import METRICS, read_metrics

        fits = {}
        for mode, of_mode in runs.items():
            history = read_metrics(self.place(mode, of_mode[0].seed) / METRICS)
            fits[WORDS[mode][0]] = (f"cross entropy, seed {of_mode[0].seed}", _History(history))
        num = len(next(iter(runs.values())))
        drawn = f"Drawn cells, confusions and calibration: {about.main}, first seed."
        limitations = (
            *seen_in_training(self.model, self.cells.query),
            f"One data set, one split; {num} training seed{'s' * (num > 1)}.",
            "The ways were trained with the options given; no option was searched for. A way may want another "
            "learning rate than it had.",
        )
        return replace(about, fits=fits, summary=(*about.summary, drawn), limitations=limitations)


@dataclass(frozen=True, slots=True)
class _History:
    """The part of a `cellwright.train.run.FitResult` that curves are drawn from."""

    history: list[dict[str, float]]
