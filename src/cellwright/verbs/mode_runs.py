"""Training runs of a comparison of ways of fine-tuning: each in its folder, made once, taken as it is when finished.

Nothing here knows a task: a task says how a run is made (`Maker`), folders, resuming and recipes are the same for all.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, field_validator
from tqdm import tqdm

from cellwright.config import Config, record_differences
from cellwright.files import atomic_path, read_json, sha256_file, write_json

if TYPE_CHECKING:
    from cellwright.evaluate.modes import ModeRun

RECIPE, RUN, ANSWERS = "recipe.json", "run.json", "answers.npz"
_UNNAMED = (
    "model.source",
    "contract.source",
    "train.accelerator",
    "train.devices",
    "train.log_every",
    "device",
    "read.backed",
)
"""Parts of a recipe that change nothing in a finished run."""

Mode = Literal["probe", "blocks", "lora", "full", "scratch"]


WORTH_KEEPING = ("**/checkpoints", f"*/*/{RUN}")
"""What a comparison's folder holds when it is not taken away after an error: a training under way, a finished run."""
USUAL = ("probe", "lora", "full", "scratch")
"""Ways that are compared unless others are asked for."""


class CompareOptions(Config):
    """Which ways of fine-tuning are compared, how often each is trained, and which cells are held out."""

    modes: tuple[Mode, ...] | None = None
    """Ways of fine-tuning, see `cellwright.tasks.finetuning.FinetuneConfig`; ``None`` = probe, lora, full and scratch,
    as far as the task has them."""
    seeds: int = Field(3, ge=1)
    """Training seeds of each way: from that of the configuration on. The split is the same for all."""
    split_by: str | None = None
    """Column of obs whose groups are held out whole (annotate, multiome); ``None`` = annotate: found by name, else
    random cells; ``"cells"``."""
    held_out: tuple[str, ...] = ()
    """annotate: names of the groups of ``split_by`` that are held out; a tenth of the other cells, at random, then
    chooses the weights. Empty = about a fifth of the cells, in groups that are drawn."""

    @field_validator("modes")
    @classmethod
    def _are_different(cls, modes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if modes is not None and (not modes or len(set(modes)) != len(modes)):
            raise ValueError("name each way once, at least one")
        return modes


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeRun:
    """What came of a run that was made now."""

    answers: Mapping[str, np.ndarray]
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `cellwright.evaluate.modes.ModeRun`; ``seconds`` among them, else the time of the whole is taken."""


Maker = Callable[[Path, str, int], MadeRun]
"""Makes the run of a mode and a seed in a folder that is not there yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRuns:
    """The runs of one comparison, in folders of their own."""

    folder: Path
    first_seeds: Mapping[str, int]
    """Mode -> seed of its first run."""
    seeds: int
    """Runs of each mode."""
    recipe: Callable[[str, int], dict[str, Any]]
    """Recipe of the run of a mode and a seed, in JSON form."""
    make: Maker
    recipe_file: str = RECIPE
    """Where the recipe of a run stands in its folder; a run that left none has it written when it is finished."""
    is_progress_shown: bool = True

    def all(self, record: Mapping[str, Any]) -> dict[str, tuple[ModeRun, ...]]:
        """Return every run, those that lack made now; one seed of all ways after another, so that whole seeds last.

        ``record`` says what the comparison is, in JSON form.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / RECIPE, dict(record))
        found: dict[str, list[ModeRun]] = {mode: [] for mode in self.first_seeds}
        for number in range(self.seeds):
            for mode, first in self.first_seeds.items():
                found[mode].append(self._run(mode, first + number))
        return {mode: tuple(runs) for mode, runs in found.items()}

    def check_folder(self) -> None:
        """Refuse a folder that holds something else, or a run of these ways and seeds that was made otherwise."""
        from cellwright.data.write import check_place

        check_place(self.folder)
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return
        recipe = self.folder / RECIPE
        is_ours = recipe.is_file() and isinstance(read_json(recipe), dict) and "compare" in read_json(recipe)
        if not is_ours:
            raise ValueError(f"{self.folder} holds other files than a comparison; choose a folder that is new or empty")
        for mode, first in self.first_seeds.items():
            for seed in range(first, first + self.seeds):
                place = self.place(mode, seed)
                if (place / self.recipe_file).is_file():
                    self._check_run(place, self.recipe(mode, seed))

    def _check_run(self, place: Path, recipe: Mapping[str, Any]) -> None:
        for name, before, now in record_differences(read_json(place / self.recipe_file), recipe):
            if name not in _UNNAMED:
                raise ValueError(
                    f"the run in {place} was made with {name} = {before!r}, not {now!r}; choose another folder for "
                    "this comparison"
                )

    def place(self, mode: str, seed: int) -> Path:
        """Return the folder of a run."""
        return self.folder / mode / f"seed_{seed}"

    def _run(self, mode: str, seed: int) -> ModeRun:
        """Return a run: the finished one in its folder, or one that is made now."""
        place = self.place(mode, seed)
        if (place / RUN).is_file():
            return self._finished(place, mode, seed)
        if self.is_progress_shown:
            tqdm.write(f"fine-tuning: {mode}, seed {seed}", file=sys.stderr)
        if place.exists():  # cut short
            shutil.rmtree(place)
        return self._made(place, mode, seed)

    def _made(self, place: Path, mode: str, seed: int) -> ModeRun:
        from cellwright.evaluate.modes import ModeRun
        from cellwright.train.memory import peak_memory

        start = time.perf_counter()
        with peak_memory() as memory:
            made = self.make(place, mode, seed)
        facts = {
            "seconds": time.perf_counter() - start,
            "peak_memory_gb": memory.gb,
            "highest_memory_gb": memory.highest_gb,
            **made.facts,
        }
        with atomic_path(place / ANSWERS) as draft, draft.open("wb") as file:
            np.savez_compressed(file, **made.answers)
        if not (place / self.recipe_file).is_file():
            write_json(place / self.recipe_file, self.recipe(mode, seed))
        write_json(place / RUN, facts | {"answers_sha256": sha256_file(place / ANSWERS)})  # last: now it is finished
        return ModeRun(mode=mode, seed=seed, answers=dict(made.answers), **facts)

    def _finished(self, place: Path, mode: str, seed: int) -> ModeRun:
        from cellwright.evaluate.modes import ModeRun

        facts = read_json(place / RUN)
        if not (place / ANSWERS).is_file() or sha256_file(place / ANSWERS) != facts.pop("answers_sha256", None):
            raise ValueError(f"{place / ANSWERS} is missing or damaged; remove {place}, and the run is made again")
        with np.load(place / ANSWERS, allow_pickle=False) as archive:
            return ModeRun(mode=mode, seed=seed, answers=dict(archive), **facts)
