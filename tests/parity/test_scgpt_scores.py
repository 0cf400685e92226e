"""Published perturbation scores, from our correlation: of mean profiles, and of their differences from controls."""

import numpy as np
import pytest
from parity.cases import Case

from cellwright.metrics.effects import pearson


@pytest.mark.parametrize("is_nonzero_only", [False, True])
def test_published_perturbation_scores(is_nonzero_only):
    """``compute_perturbation_metrics``: a condition is a mean over cells, the score a mean over conditions."""
    case = Case("scgpt", "metrics_losses").arrays
    control_g = case["in/ctrl"].mean(0)
    found = {"pearson": [], "pearson_de": [], "pearson_delta": [], "pearson_de_delta": []}
    for condition, order in zip(np.unique(case["in/cond"]), case["in/de_order"], strict=True):
        true_g, made_g = (case[f"in/{what}"][case["in/cond"] == condition].mean(0) for what in ("truth", "pred"))
        at_g = np.flatnonzero(true_g) if is_nonzero_only else np.arange(len(true_g))
        # the list of changed genes that are no dropouts was recorded as the 6th to 25th of the order
        changed = order[5:25] if is_nonzero_only else order[:20]
        for suffix, genes in (("", at_g), ("_de", changed)):
            found[f"pearson{suffix}"].append(pearson(true_g[genes], made_g[genes]))
            shifts = [(profile - control_g)[genes] for profile in (true_g, made_g)]
            found[f"pearson{suffix}_delta"].append(pearson(*shifts))
    for name, scores in found.items():
        np.testing.assert_allclose(scores, case[f"out/nonzero{is_nonzero_only:d}_raw/{name}"], atol=1e-5)
        assert np.mean(scores) == pytest.approx(float(case[f"out/nonzero{is_nonzero_only:d}_mean/{name}"]), abs=1e-5)
