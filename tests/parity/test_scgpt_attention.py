"""Attention scores and their ranks against those recorded from the published way."""

import numpy as np
import torch
from parity.cases import Case, assert_close
from scipy.stats import rankdata

from cellwright.tasks.attention import column_ranks, ranks_in_rows
from cellwright.types import Layout, TokenBatch

CASE = Case("scgpt", "grn")
HEADS, TOKENS = 4, 24


def recorded_tokens():
    gene_nt, value_nt = CASE["in/src"], CASE["in/values"]
    is_hidden_nt = value_nt == -1
    return TokenBatch(
        gene_nt=gene_nt,
        value_nt=value_nt.masked_fill(is_hidden_nt, 0.0),
        is_hidden_nt=is_hidden_nt,
        layout=Layout((TOKENS,) * len(gene_nt), TOKENS),
    )


def test_scores_are_queries_times_keys_of_the_last_layer():
    network = Case("scgpt", "base_continuous").model().network.eval()
    with torch.inference_mode():
        q_nthd, k_nthd = network.queries_keys(recorded_tokens(), -1)
    assert_close(torch.einsum("nihd,njhd->nhij", q_nthd, k_nthd), CASE["out/raw_scores"])


def test_ranks_in_rows_are_the_recorded_ones():
    score = CASE["out/raw_scores"].flatten(0, 2)
    torch.testing.assert_close(
        ranks_in_rows(score, score) / TOKENS, CASE["out/rank_rows"].flatten(0, 2), rtol=0, atol=0
    )


def test_ranks_of_columns_differ_from_the_recorded_ones_by_their_ties_alone():
    """Row ranks are integers, so a column has equal ones; the published code orders them by accident, ours not."""
    score_nhtt = CASE["out/raw_scores"]
    ours = torch.stack([
        torch.stack([column_ranks(head_tt, torch.arange(TOKENS)).T for head_tt in cell_htt]).mean(0)
        for cell_htt in score_nhtt
    ])  # fmt: skip
    row_rank = CASE["out/rank_rows"].numpy()
    low, mean, high = (
        (rankdata(row_rank, method=method, axis=2) - 1).mean(1) / TOKENS for method in ("min", "average", "max")
    )
    theirs = CASE["out/rank_rows_then_cols_mean_heads"].numpy()
    assert ((low - 1e-6 <= theirs) & (theirs <= high + 1e-6)).all()
    np.testing.assert_allclose(ours.numpy(), mean, atol=1e-6)
    has_tie = high > low
    np.testing.assert_allclose(ours.numpy()[~has_tie], theirs[~has_tie], atol=1e-6)
    assert 0.5 < has_tie.mean() < 1
    assert np.abs(ours.numpy() - theirs).max() > 0.01  # one tie moves a rank by half a place of 24, over four heads
