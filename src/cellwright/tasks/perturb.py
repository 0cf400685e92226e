"""Perturbation prediction: what would cells look like after something that was not done to them?

The frame that every model and baseline runs in: each learns the lesson of a fold (`cellwright.tasks.lessons`) and is
asked for the effects of its test profiles. Anything with `PerturbModel.fit` can take part; baselines are in
`cellwright.baselines.perturbation`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cellwright.baselines.perturbation import PERTURBATION_BASELINES, Asked, Known, mean_effect, usable
from cellwright.data.perturbation_splits import TEST, TRAIN, PerturbationSplit
from cellwright.tasks.lessons import Lesson, Screen, make_lesson


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """Predicted effects, and cells where a model makes them."""

    effect_ug: np.ndarray
    """float64: change of mean log expression from the controls that were given."""
    cells: Mapping[int, np.ndarray] = field(default_factory=dict)
    """Row -> log expression of predicted cells ``[m, g]``; other rows are shown by shifted controls."""


class FittedPerturb(Protocol):
    """A model that has learnt a lesson."""

    @property
    def num_trained(self) -> int:
        """Parameters that were trained; 0 = it has none."""
        ...

    def predict(self, asked: Asked) -> Predicted:
        """Predict what is asked; perturbed genes that it has never heard of are no error."""
        ...


class PerturbModel(Protocol):
    """A way to learn what perturbations do. It holds no state between folds."""

    name: str
    what: str
    """One line for the reader."""

    def fit(self, lesson: Lesson) -> FittedPerturb:
        """Learn from a lesson."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """What every method said of every test profile, fold by fold."""

    at_e: np.ndarray
    """int64: profile of each entry; a profile can be tested in several folds (split ``gears``)."""
    fold_e: np.ndarray
    group_e: tuple[str, ...]
    reference_eg: np.ndarray
    """Mean training profile of the fold, as it would be in the entry's context."""
    has_alone_e: np.ndarray
    """bool: a combination each part of which is perturbed alone in the fold's training, in the entry's context."""
    effect_eg: Mapping[str, np.ndarray]
    """Method -> effects."""
    cells: Mapping[str, Mapping[int, np.ndarray]]
    """Method -> entry -> predicted cells."""
    seconds: Mapping[str, float]
    num_trained: Mapping[str, int]
    """Method -> parameters that were trained, in the last fold."""
    what: Mapping[str, str]
    is_baseline: Mapping[str, bool]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Baseline:
    """A baseline in the shape of a model: validation profiles are training profiles to it."""

    name: str
    what: str

    def fit(self, lesson: Lesson) -> _FittedBaseline:
        return _FittedBaseline(self.name, lesson)


@dataclass(frozen=True, slots=True)
class _FittedBaseline:
    name: str
    lesson: Lesson
    num_trained: int = 0

    def predict(self, asked: Asked) -> Predicted:
        found = PERTURBATION_BASELINES[self.name].predict(self.lesson.profiles, asked, self.lesson.known)
        return Predicted(found)


def baselines(known: Known) -> list[PerturbModel]:
    """Return the baselines that can be run with what is known."""
    return [_Baseline(name, PERTURBATION_BASELINES[name].what) for name in usable(known)]


def predict_folds(
    screen: Screen,
    splits: Sequence[PerturbationSplit],
    models: Sequence[PerturbModel],
    *,
    known: Known | None = None,
) -> Predictions:
    """Let every model and every baseline learn each fold's lesson and predict its test profiles.

    Raises
    ------
    ValueError
        Two methods of one name, a prediction of a wrong shape, or one that is not finite.
    """
    known = known or Known(genes=screen.genes, panel_at=screen.panel_at)
    methods = [*baselines(known), *models]
    names = [method.name for method in methods]
    if len(set(names)) != len(names):
        raise ValueError(f"method names must differ: {', '.join(names)}")
    effects: dict[str, list[np.ndarray]] = {name: [] for name in names}
    cells: dict[str, dict[int, np.ndarray]] = {name: {} for name in names}
    seconds, num_trained = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    at_e, fold_e, group_e, reference, has_alone = [], [], [], [], []
    for split in splits:
        test = split.at(TEST)
        lesson, asked = make_lesson(screen, split, known), screen.asked(test)
        reference.append(asked.control_ug + mean_effect(lesson.profiles, asked, known))
        for method in methods:
            start = time.perf_counter()
            fitted = method.fit(lesson)
            predicted = fitted.predict(asked)
            seconds[method.name] += time.perf_counter() - start
            num_trained[method.name] = fitted.num_trained
            _check_effects(method.name, predicted, asked)
            effects[method.name].append(predicted.effect_ug)
            cells[method.name] |= {len(at_e) + row: made for row, made in predicted.cells.items()}
        at_e += test
        fold_e += [split.fold] * len(test)
        has_alone += [_has_alone(screen, split, u) for u in test]
        group_e += [split.group(u) for u in test]
    return Predictions(
        at_e=np.array(at_e),
        fold_e=np.array(fold_e),
        group_e=tuple(group_e),
        reference_eg=np.concatenate(reference),
        has_alone_e=np.array(has_alone, bool),
        effect_eg={name: np.concatenate(found) for name, found in effects.items()},
        cells=cells,
        seconds=seconds,
        num_trained=num_trained,
        what={method.name: method.what for method in methods},
        is_baseline={method.name: isinstance(method, _Baseline) for method in methods},
        notes=tuple(dict.fromkeys(note for split in splits for note in split.notes)),
    )


def _has_alone(screen: Screen, split: PerturbationSplit, at: int) -> bool:
    parts, context = screen.profiles.parts, screen.profiles.context
    known = {parts[u][0] for u in split.at(TRAIN) if len(parts[u]) == 1 and context[u] == context[at]}
    return len(parts[at]) > 1 and set(parts[at]) <= known


def _check_effects(name: str, predicted: Predicted, asked: Asked) -> None:
    shape = predicted.effect_ug.shape
    if shape != asked.control_ug.shape:
        raise ValueError(f"{name} predicted effects of shape {shape}, {asked.control_ug.shape} were asked for")
    if not np.isfinite(predicted.effect_ug).all():
        raise ValueError(f"{name} predicted effects that are not finite; lower its learning rate, or look at its input")
