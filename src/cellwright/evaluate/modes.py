"""Ways of fine-tuning one model side by side: probe, low-rank, full, from scratch; each trained with several seeds.

Every way is a method; its score is the mean over its runs, and its interval is of other cells and other training seeds
at once (`cellwright.metrics.runs`). What pre-training was worth is the paired difference of *full* and *scratch*.
Nothing here knows a task: `cellwright.evaluate.annotation_modes` and `cellwright.evaluate.task_modes` do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cellwright.evaluate.measures import Measure
from cellwright.evaluate.parts import Difference, Method, Score
from cellwright.metrics import percentiles

WORDS = {
    "probe": ("probe", "the network as it is, only what is new (a head, say) trained"),
    "blocks": ("blocks", "some transformer blocks and what is new (a head, say)"),
    "lora": ("LoRA", "low-rank changes of attention and what is new (a head, say)"),
    "full": ("full", "all weights, begun from the pre-trained ones"),
    "scratch": ("from scratch", "all weights, newly drawn: what the same network learns without pre-training"),
}
"""Mode -> its name and what is trained."""
WORTH = (("full", "scratch"), ("lora", "scratch"), ("probe", "scratch"), ("full", "lora"), ("full", "probe"))
"""Differences that are told, the worth of pre-training first."""
MOST_RIVALS = 5
"""Rivals that every way is held against one by one: of more, the best by the primary score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRun:
    """One training run and its answers; what it took is ``None`` where it was not counted."""

    mode: str
    seed: int
    answers: Mapping[str, np.ndarray]
    """What scores are made of, by name; which, a task knows."""
    seconds: float
    """Wall time of training."""
    trained_parameters: int | None = None
    num_parameters: int | None = None
    num_steps: int | None = None
    best_step: int | None = None
    best_loss: float | None = None
    """Lowest validation loss."""
    peak_memory_gb: float | None = None
    """Memory that the run took."""
    highest_memory_gb: float | None = None
    """The same with what the process held before."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModeScores:
    """What ways of fine-tuning score, and what stands beside them."""

    family: str
    """Title of the model's family, for the methods' names."""
    runs: Mapping[str, Sequence[ModeRun]]
    """Mode -> its runs, in the order of seeds; the same seeds in every mode."""
    primary: str
    measure: Measure
    """Of the primary metric."""
    by_run: Mapping[str, Mapping[str, Sequence[float]]]
    """Mode -> metric -> score of each run."""
    drawn: Mapping[str, Mapping[str, np.ndarray]]
    """Method -> metric -> score on every resample of cells and runs, ``[r]``; lacking = no interval."""
    rivals: Sequence[Method]
    """What ways are held against: baselines, bounds, and models that are no ways."""
    unit: str
    """What was resampled beside runs: cells, whole groups, perturbations, proteins."""
    counts: Mapping[str, int]
    """What was counted, see `cellwright.evaluate.parts.Score`."""

    @property
    def num_runs(self) -> int:
        """Runs of each way."""
        return len(next(iter(self.runs.values())))

    def name(self, mode: str) -> str:
        """Return the method's name of a mode."""
        return mode_name(self.family, mode)

    def value(self, mode: str) -> float:
        """Return the primary score of a way, the mean over its runs."""
        return float(np.mean(self.by_run[mode][self.primary]))

    def competing(self) -> list[Method]:
        """Return the rivals that ways are held against one by one, in their order."""
        given = [rival for rival in self.rivals if rival.bound is None and self.primary in rival.scores]
        best = sorted(given, key=lambda rival: self.measure.gap(rival.scores[self.primary].value))[:MOST_RIVALS]
        return [rival for rival in given if rival in best]


def mode_name(family: str, mode: str) -> str:
    """Return the name of a way of fine-tuning a family's model."""
    return f"{family}, {WORDS[mode][0]}"


def score_over(value: float, drawn_r: np.ndarray | None, counts: Mapping[str, int]) -> Score:
    """Return a score whose interval holds it; resamples on which it is not defined do not count."""
    found = interval(value, drawn_r)
    low, high = (None, None) if found is None else found
    return Score(value=value, low=low, high=high, cells=dict(counts))


def interval(value: float, drawn_r: np.ndarray | None) -> tuple[float, float] | None:
    """Return the middle 95 % of resampled values, wide enough to hold the value; nothing where there are none."""
    drawn_r = np.zeros(0) if drawn_r is None else drawn_r[np.isfinite(drawn_r)]
    if not len(drawn_r):
        return None
    low, high = percentiles(drawn_r)
    return min(low, value), max(high, value)


def way_methods(scores: ModeScores) -> list[Method]:
    """Return the ways as methods, each with the means over its runs."""
    found = []
    for mode, runs in scores.runs.items():
        name, counts = scores.name(mode), {**scores.counts, "runs": len(runs)}
        drawn = scores.drawn.get(name, {})
        found.append(
            Method(
                name=name,
                what=f"{WORDS[mode][1]}; {_times(len(runs))}",
                is_baseline=False,
                scores={
                    metric: score_over(float(np.mean(values)), drawn.get(metric), counts)
                    for metric, values in scores.by_run[mode].items()
                },
                seconds=float(np.mean([run.seconds for run in runs])),
                trained_parameters=runs[0].trained_parameters,
            )
        )
    return found


def _times(num: int) -> str:
    return "one run" if num == 1 else f"mean of {num} runs, seconds are of one"


def way_differences(scores: ModeScores) -> tuple[Difference, ...]:
    """Return differences of ways, the worth of pre-training first, then of ways and rivals, by the primary metric.

    Left out is what has no resamples, and so no interval.
    """
    modes, primary = list(scores.runs), scores.primary
    rivals = scores.competing()
    values = {scores.name(mode): scores.value(mode) for mode in modes}
    values |= {rival.name: rival.scores[primary].value for rival in rivals}
    pairs = [(scores.name(a), scores.name(b)) for a, b in WORTH if a in modes and b in modes]
    pairs += [(scores.name(mode), rival.name) for mode in modes for rival in rivals]
    found = []
    for method, other in pairs:
        drawn = [scores.drawn.get(name, {}).get(primary) for name in (method, other)]
        value = values[method] - values[other]
        ends = None if drawn[0] is None or drawn[1] is None else interval(value, drawn[0] - drawn[1])
        if ends is not None:
            found.append(Difference(method=method, other=other, metric=primary, value=value, low=ends[0], high=ends[1]))
    return tuple(found)


def worth_of(scores: ModeScores, differences: Sequence[Difference]) -> Difference | None:
    """Return full - scratch, where both were run and the difference has an interval."""
    if not {"full", "scratch"} <= set(scores.runs):
        return None
    names = scores.name("full"), scores.name("scratch")
    return next((found for found in differences if (found.method, found.other) == names), None)


def worth_words(worth: Difference) -> str:
    """Say what pre-training was worth, and whether these cells and seeds settle it."""
    is_settled = worth.low > 0 or worth.high < 0
    end = "which excludes zero" if is_settled else "so these cells and seeds do not settle it"
    return f"Pre-training was worth {worth.value:+.3f} [{worth.low:+.3f}, {worth.high:+.3f}] (full - scratch), {end}."


def headline(scores: ModeScores, differences: Sequence[Difference], doing: str) -> str:
    """Say how many ways were run at what (``doing``: "naming 90 held-out cells"), and what pre-training was worth."""
    num = scores.num_runs
    runs = f"{num} seeds each" if num > 1 else "one seed each"
    ways = "ways" if len(scores.runs) > 1 else "way"
    text = f"{len(scores.runs)} {ways} of fine-tuning {scores.family}, {runs}, {doing}."
    worth = worth_of(scores, differences)
    return text if worth is None else f"{text} {worth_words(worth)}"


def interval_note(scores: ModeScores, num_resamples: int, *more: str) -> str:
    """Say how intervals were made; ``more`` = further sentences."""
    num = scores.num_runs
    seeds = (
        f"training seeds ({num - 1} of the {num} runs a resample, so that their spread is not understated), the same "
        f"for all ways; {num} seeds tell little of the spread itself"
        if num > 1
        else "no training seeds, since there is one; another seed may move a score further than the interval says"
    )
    text = (
        f"95 % intervals: percentile bootstrap over {scores.unit}, {num_resamples:,} resamples, and in each over "
        f"{seeds}."
    )
    return " ".join([text, *more])
