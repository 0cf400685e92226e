"""The verb that asks the other way round: which perturbation brings cells into a wanted state? Nothing is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from cellwright.config import Config, did_you_mean, some_of, versions
from cellwright.files import atomic_path, write_json
from cellwright.models import Model
from cellwright.tasks.inference import InferenceOptions
from cellwright.tasks.screen import ScreenOptions
from cellwright.verbs.perturb_files import joint_sha256
from cellwright.verbs.perturb_methods import MethodSource, PerturbConfig, methods_of
from cellwright.verbs.perturbing import PerturbOptions
from cellwright.verbs.training import publish
from cellwright.verbs.using import model_record, open_model

if TYPE_CHECKING:
    from cellwright.baselines.perturbation import Known
    from cellwright.evaluate.evaluation import Evaluation
    from cellwright.tasks.gene_features import GeneTable
    from cellwright.tasks.lessons import Screen
    from cellwright.tasks.perturb import PerturbModel
    from cellwright.tasks.reverse import Parts, Ranked, Way
    from cellwright.tasks.reverse_folds import Ranking, Reversed


class ReverseOptions(Config):
    """What is ranked, how, and how it is tested."""

    split: Literal["single", "double", "gears", "cells"] = "double"
    """What is held out to test with: single | double | gears | cells (contexts)."""
    folds: int = Field(5, ge=2)
    """Folds; everything is held out once."""
    valid: float = Field(0.2, ge=0, lt=1)
    """Share of what is left for training that is held out to choose by."""
    seed: int = Field(0, ge=0)
    """Of everything random."""
    by: Literal["effect", "distance", "votes"] = "distance"
    """How candidates are ranked: distance (of mean profiles) | effect (cosine of changes) | votes (of cells, as
    published)."""
    candidates: Literal["pairs", "measured"] = "pairs"
    """What is ranked: pairs (every gene that occurs, and all pairs of them) | measured (conditions of the screen)."""
    top: str = "1,5,8"
    """Numbers of candidates that are looked at, with commas between."""
    num_neighbors: int = Field(10, ge=1)
    """Predicted cells that each wanted cell votes for."""
    use: Literal["genes", "cells", "both"] = "genes"
    """What a model is for: genes = its gene embeddings feed a second graph model | cells = it is itself fine-tuned to
    turn controls into perturbed cells | both."""
    in_context: str | None = None
    """Context in which a wanted state is to be reached; needed where the screen has several."""

    @field_validator("top")
    @classmethod
    def _is_numbers(cls, top: str) -> str:
        if not all(word.strip().isdigit() and int(word) > 0 for word in top.split(",")):
            raise ValueError(f"{top!r} is no list of whole numbers such as 1,5,8")
        return top

    @property
    def sizes(self) -> tuple[int, ...]:
        """``top`` as numbers, rising."""
        return tuple(sorted({int(word) for word in self.top.split(",")}))

    def training(self) -> PerturbOptions:
        """Return the options that decide how methods learn."""
        names = ("split", "folds", "valid", "seed", "use")
        return PerturbOptions(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReverseResult:
    """What came out."""

    screen: Screen
    found: Reversed
    """Rankings of held-out states by every method."""
    evaluation: Evaluation
    ranked: Ranked | None
    """Candidates for the wanted state, by the last model trained on the whole screen."""
    record: dict[str, Any]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should look at."""
        return (*self.screen.contract.warnings, *self.screen.notes, *self.record["notes"])

    def lines(self) -> list[str]:
        """Return the outcome as text."""
        from cellwright.evaluate.comparison import table_text

        lines = [table_text(self.evaluation)]
        if self.ranked is not None:
            lines += ["", f"candidates for the wanted state, by {self.record['main']}:", *self.ranked.lines()]
        return [*lines, *(f"warning: {warning}" for warning in self.warnings)]

    def save(self, folder: str | Path) -> None:
        """Write record, scores, report and, for a wanted state, ``ranking.tsv`` into ``folder``, whole or not."""
        from cellwright.data.perturbations import JOIN

        with atomic_path(folder) as draft:
            draft.mkdir()
            write_json(draft / "record.json", self.record)
            if self.ranked is not None:
                pairs = zip(self.ranked.parts, self.ranked.score_k.tolist(), strict=True)
                rows = [f"{at}\t{JOIN.join(parts)}\t{score:.6g}" for at, (parts, score) in enumerate(pairs, 1)]
                text = "\n".join(["rank\tperturbation\tscore", *rows])
                (draft / "ranking.tsv").write_text(text + "\n", encoding="utf-8")
            publish(self.evaluation, draft)


def reverse_perturb(
    adata: Any,
    *,
    state: Any = None,
    options: ReverseOptions | None = None,
    screen: ScreenOptions | None = None,
    gene_sets: str | Path | Mapping[str, Sequence[str]] | None = None,
    model: Model | str | Path | None = None,
    embedding: str | Path | GeneTable | None = None,
    config: PerturbConfig | None = None,
    run: InferenceOptions | None = None,
) -> ReverseResult:
    """Rank perturbations by how near they bring cells to a wanted state, and say how often such a ranking is right.

    How often is found on held-out perturbations: methods that have not seen them rank all candidates for the cells
    that they left, beside baselines, chance and the real effects themselves.

    Parameters
    ----------
    adata
        AnnData or path of cells with known perturbations and controls: what methods learn from.
    state
        AnnData or path of cells as they are wanted; they need not be of the screen. ``None`` = only test.
    options
        What is ranked, how, and how it is tested.
    screen, gene_sets, embedding, config, run
        As in `perturb`.
    model
        As in `perturb`; ``options.use`` says what for.

    Returns
    -------
    `ReverseResult`.

    Raises
    ------
    ValueError
        What `perturb` refuses; a state that shares too few genes with the screen; no context where several are.
    """
    from cellwright.data.perturbation_splits import split_perturbations
    from cellwright.evaluate.reverse import ReverseStudy, evaluate_reverse
    from cellwright.tasks.reverse import candidates_of
    from cellwright.tasks.reverse_folds import Ranking, reverse_folds
    from cellwright.tasks.screen import open_screen

    options, read, config = options or ReverseOptions(), screen or ScreenOptions(), config or PerturbConfig()
    if model is not None and embedding is not None:
        raise ValueError("model and embedding both give gene embeddings; give one of them (--model, --embedding)")
    if options.use != "genes" and model is None:
        raise ValueError(f"use = {options.use!r} fine-tunes a model; give one (model=, --model)")
    opened = open_screen(adata, read, seed=options.seed)
    ways: tuple[Way, ...] = tuple(dict.fromkeys([options.by, "distance", "effect"]))
    ranking = Ranking(
        candidates=candidates_of(opened.perturbations, options.candidates),
        ways=ways,
        sizes=options.sizes,
        num_neighbors=options.num_neighbors,
    )
    wanted = None if state is None else _Wanted(opened, state, read, options.in_context)
    splits = split_perturbations(
        opened.profiles, options.split, num_folds=options.folds, valid=options.valid, seed=options.seed
    )
    loaded = None if model is None else open_model(model)
    source = MethodSource(model=loaded, embedding=embedding, adata=adata, run=run or InferenceOptions(), read=read)
    known, graph, methods, notes = methods_of(opened, options.training(), config, gene_sets, source)
    found = reverse_folds(opened, splits, methods, ranking, known=known)
    hashes = [split.sha256(opened.obs_names.tolist(), opened.profile_n) for split in splits]
    name, main = opened.contract.title, methods[-1].name
    study = ReverseStudy(
        title=f"Reverse perturbation of {name}",
        dataset=name,
        screen=opened,
        found=found,
        main=main,
        model=loaded,
        split_sha256=joint_sha256(hashes),
        notes=notes,
    )
    record = {
        "options": options.record() | {"screen": read.record(), "methods": config.record()},
        "screen": opened.record(),
        "perturbation_graph": graph.record(),
        "model": None if loaded is None else model_record(loaded),
        "main": main,
        "num_candidates": len(ranking.candidates),
        "notes": [*notes, *(() if wanted is None else wanted.notes)],
        "split_sha256": hashes,
        "versions": versions(),
    }
    ranked = None if wanted is None else wanted.rank(methods[-1], known, ranking, options.valid)
    return ReverseResult(screen=opened, found=found, evaluation=evaluate_reverse(study), ranked=ranked, record=record)


class _Wanted:
    """Cells as they are wanted, over those genes of the screen that they have."""

    def __init__(self, screen: Screen, state: Any, read: ScreenOptions, context: str | None):
        import numpy as np

        from cellwright.data.cells import open_cells
        from cellwright.tasks.screen import log_expression
        from cellwright.vocab import GeneVocab

        self.screen, self.context = screen, _context_of(screen, context)
        cells = open_cells(
            state, GeneVocab.from_genes(screen.genes, {}), accepts=("raw", "normalised", "log1p"), assume=read.assume
        )
        total = read.total if read.total in cells.obs.columns else None
        self.log_ng = log_expression(cells, cells.obs, total)
        shared = np.isin(cells.vocab.ids(screen.genes), cells.contract.genes.matched_ids)
        self.shared_k = np.flatnonzero(shared)
        if len(self.shared_k) < 3:
            raise ValueError(
                f"the wanted state shares {len(self.shared_k)} of {len(screen.genes)} genes with the screen; give cells"
                " that measure its genes"
            )
        self.notes = [f"wanted state: {len(cells)} cells, {len(self.shared_k)} of {len(screen.genes)} genes measured"]
        if read.total is not None and total is None:
            self.notes.append(
                f"the wanted state has no column {read.total!r}: its totals are those of the genes shared"
            )

    def rank(self, method: PerturbModel, known: Known, ranking: Ranking, valid: float) -> Ranked:
        """Rank the candidates by a model of the whole screen."""
        from cellwright.tasks.lessons import whole_lesson
        from cellwright.tasks.perturb import Predicted
        from cellwright.tasks.reverse import Ranked, State, asked_in, reference_of

        screen, kept = self.screen, self.shared_k
        fitted = method.fit(whole_lesson(screen, known, valid=valid))
        asked = asked_in(screen, ranking.candidates, self.context)
        predicted: Predicted = fitted.predict(asked)
        each = ranking.cells_each if ranking.ways[0] == "votes" else 0
        reference = reference_of(screen, asked, predicted, cells_each=each, seed=screen.seed).over(kept)
        state = State(cell_ng=self.log_ng[:, kept].toarray(), control_g=asked.control_ug[0, kept])
        score_k = reference.scores(state, ranking.ways[0], num_neighbors=ranking.num_neighbors)
        parts: tuple[Parts, ...] = ranking.candidates
        return Ranked.by(parts, score_k)


def _context_of(screen: Screen, name: str | None) -> int:
    if name is None and len(screen.contexts) == 1:
        return 0
    if name not in screen.contexts:
        near = did_you_mean(name or "", screen.contexts) or f"; the screen has {some_of(screen.contexts)}"
        what = "name the context that the state is to be reached in" if name is None else f"no context {name!r}"
        raise ValueError(f"{what}{near} (in_context=, --in-context)")
    return screen.contexts.index(name)
