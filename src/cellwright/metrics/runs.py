"""Scores of methods that were trained several times: means over training runs, with intervals over cells and runs.

Two things are left to chance in the score of a trained method: which cells are asked, and how the training went. Each
resample draws both. Cells (or whole groups) are drawn as everywhere in `cellwright.metrics`, the same for all methods.
Of S runs, S - 1 are drawn with replacement: the mean of so many has the variance of the mean of S runs, whereas S
drawn ones would understate it by (S - 1) / S, a third for three runs (Rao & Wu, JASA 83:231, 1988). The runs of
several methods that were given the same seeds are drawn together, so that their difference is paired in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cellwright.metrics import METRICS, resample

NUM_RESAMPLES = 1000


def resampled_means(
    metric: str,
    truth_n: Any,
    answers: Mapping[str, Sequence[Any]],
    *,
    groups: Any = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int,
) -> dict[str, np.ndarray]:
    """Return the mean score over drawn runs on drawn cells, float ``[r]``, for each method.

    Parameters
    ----------
    answers
        Method -> the answers of its runs (predicted codes, or probabilities for ``ece``), in the order of their seeds.
        A method of one run has no chance of its own (a baseline), or none that could be told.
    groups
        Code of each cell's donor, study, ...: whole groups are drawn instead of cells.

    Raises
    ------
    ValueError
        Methods were run several times, but not equally often: their runs cannot be paired.
    """
    nums = {len(runs) for runs in answers.values()} - {1}
    if len(nums) > 1:
        raise ValueError(f"methods have {sorted(nums)} runs; train them with the same seeds")
    calls = [(truth_n, answer) for runs in answers.values() for answer in runs]
    found = iter(resample(METRICS[metric].function, calls, groups, num_resamples, seed))
    return {name: mean_over_runs([next(found) for _ in runs], seed) for name, runs in answers.items()}


def mean_over_runs(score_sr: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Return the mean over drawn runs, float ``[r]``, of scores on the same resamples, one array ``[r]`` a run.

    As many runs and the same seed give the same runs on each resample, so that methods are paired in them.
    """
    score_rs = np.stack(score_sr, axis=1)
    return (score_rs * run_weights(score_rs.shape[1], len(score_rs), seed)).sum(1)


def run_weights(num_runs: int, num_resamples: int, seed: int) -> np.ndarray:
    """Return how much each run counts in each resample, float ``[r, s]``, rows sum to 1."""
    if num_runs == 1:
        return np.ones((num_resamples, 1))
    generator = np.random.default_rng([seed, num_runs])
    count_rs = generator.multinomial(num_runs - 1, np.full(num_runs, 1 / num_runs), num_resamples)
    return count_rs / (num_runs - 1)
