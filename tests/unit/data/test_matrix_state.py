"""The detector of matrix states: a table of planted states, and the edges one by one."""

import itertools
import json

import numpy as np
import pytest
import scipy.sparse as sp

from cellwright.data.state import inspect_matrix


def planted_counts(num_cells: int, num_genes: int, depth: float, seed: int) -> np.ndarray:
    """Gamma-Poisson counts with skewed gene means and uneven depth, int64 [n, g]."""
    rng = np.random.default_rng(seed)
    share_g = rng.lognormal(0, 1.5, num_genes)
    share_g /= share_g.sum()
    depth_n = rng.lognormal(np.log(depth), 0.4, num_cells)
    mean_ng = depth_n[:, None] * share_g * rng.gamma(2.0, 0.5, (num_cells, num_genes))
    counts_ng = rng.poisson(mean_ng)
    return counts_ng[counts_ng.sum(1) > 0]


def normalise(counts_ng: np.ndarray, target: float | None) -> np.ndarray:
    total_n = counts_ng.sum(1, keepdims=True).astype(float)
    return counts_ng / total_n * (np.median(total_n) if target is None else target)


def quantile_bins(counts_ng: np.ndarray, num_bins: int) -> np.ndarray:
    """Per-cell quantile bins, the upper edge for ties: 0, 1 .. num_bins - 1."""
    out_ng = np.zeros_like(counts_ng)
    for row, bins in zip(counts_ng, out_ng, strict=True):
        expressed = row > 0
        edges = np.quantile(row[expressed], np.linspace(0, 1, num_bins - 1))
        bins[expressed] = np.digitize(row[expressed], edges)
    return out_ng


def cases():
    """Yield (expected kind, log base, target, matrix) over seeds, depths, panels, targets, subsets and types."""
    targets = (1e4, 1e6, None, 3141.0)
    grid = itertools.product(range(4), (60, 600, 6000, 60000), (40, 400, 2000))
    for number, (seed, depth, num_genes) in enumerate(grid):
        counts_ng = planted_counts(60, num_genes, depth, 1000 * seed + num_genes + depth)
        dtype = ("float32", "float64", "float32")[number % 3]
        wrap = (sp.csr_matrix, sp.csc_matrix, np.asarray)[number % 3]
        keeps = [slice(None)]
        if num_genes >= 400:  # a selection of genes, made after normalising
            keeps.append(np.sort(np.random.default_rng(number).permutation(num_genes)[: num_genes // 4]))
        for keep in keeps:
            yield (
                "raw",
                None,
                None,
                wrap(counts_ng[:, keep].astype(("float32", "int32", "uint16")[number % 3])),
            )
            logs_ng = np.log1p(counts_ng[:, keep])
            if logs_ng.any():
                yield "log1p", np.e, None, wrap(logs_ng.astype(dtype))
            target = targets[number % 4]
            cp_ng = normalise(counts_ng, target)
            target = float(np.median(counts_ng.sum(1))) if target is None else target
            target = target if isinstance(keep, slice) else None
            yield "normalised", None, target, wrap(cp_ng[:, keep].astype(dtype))
            yield "log1p", np.e, target, wrap(np.log1p(cp_ng)[:, keep].astype(dtype))
            yield "log1p", 2.0, target, wrap(np.log2(1 + cp_ng)[:, keep].astype(dtype))
        logs_ng = np.log1p(normalise(counts_ng, 1e4))
        std_g = logs_ng.std(0)
        yield "scaled", None, None, ((logs_ng - logs_ng.mean(0)) / np.where(std_g, std_g, 1)).astype(dtype)
        for num_bins in (51, 11):
            yield "binned", None, None, wrap(quantile_bins(counts_ng, num_bins))


def test_at_least_99_percent_of_the_table_of_states_is_right(record_property):
    right = wrong_numbers = total = 0
    misses = []
    for kind, base, target, matrix in cases():
        state = inspect_matrix(matrix)
        total += 1
        right += state.kind == kind
        if state.kind != kind:
            misses.append((kind, state.kind, state.reason, matrix.shape))
            continue
        if base is not None:
            wrong_numbers += state.log_base is None or abs(state.log_base - base) > 1e-9
        if target is not None:
            wrong_numbers += state.target_sum is None or abs(state.target_sum / target - 1) > 1e-3
    record_property("states_right", f"{right}/{total}")
    assert total > 500
    assert right / total >= 0.99, misses
    assert wrong_numbers / total <= 0.01


@pytest.mark.parametrize("target", [1e4, 1e6])
def test_half_precision_logs_are_recognised(target):
    logs_ng = np.log1p(normalise(planted_counts(80, 500, 3000, 0), target)).astype(np.float16)
    state = inspect_matrix(logs_ng)
    assert (state.kind, state.target_sum, state.dtype) == ("log1p", target, "float16")


def test_shallow_counts_are_not_bins():
    for depth, seed in itertools.product((1, 3, 10, 30), range(5)):
        counts_ng = planted_counts(300, 1000, depth, seed)
        assert inspect_matrix(counts_ng).kind == "raw", depth
    assert inspect_matrix(np.eye(50, dtype=np.int8)).kind == "raw"


def test_one_cell():
    counts_ng = planted_counts(1, 800, 5000, 3)
    assert inspect_matrix(counts_ng).kind == "raw"
    assert inspect_matrix(normalise(counts_ng, 1e4)).target_sum == 1e4
    state = inspect_matrix(np.log1p(normalise(counts_ng, 1e4)))
    assert (state.kind, state.target_sum) == ("log1p", 1e4)


def test_scaled_without_centring():
    logs_ng = np.log1p(normalise(planted_counts(400, 300, 4000, 1), 1e4))
    assert inspect_matrix(logs_ng[:, logs_ng.std(0) > 0] / logs_ng.std(0)[logs_ng.std(0) > 0]).kind == "scaled"


def test_corrected_counts_are_unknown():
    counts_ng = planted_counts(100, 300, 5000, 2).astype(float)
    counts_ng[:, 3] *= 0.93
    assert inspect_matrix(counts_ng).kind == "unknown"


def test_nan_and_negative_values_are_located():
    counts_ng = planted_counts(20, 30, 500, 4).astype(float)
    counts_ng[7, 11] = np.nan
    state = inspect_matrix(counts_ng)
    assert state.kind == "unknown"
    assert state.first_bad[:2] == (7, 11)
    json.dumps(state.record(), allow_nan=False)
    counts_ng[7, 11] = -2
    assert inspect_matrix(sp.csr_matrix(counts_ng)).first_bad == (7, 11, -2.0)


def test_all_zero_and_empty_matrices_count_as_raw():
    assert inspect_matrix(np.zeros((4, 5))).kind == "raw"
    assert inspect_matrix(sp.csr_matrix((0, 5))).kind == "raw"


def test_large_input_is_sampled_all_over():
    counts_ng = np.ones((5000, 20), dtype=np.int32)
    counts_ng[4000:] = -1
    state = inspect_matrix(counts_ng)
    assert state.num_rows <= 2000
    assert state.kind == "scaled"


def test_input_is_not_changed_and_text_is_not_a_matrix():
    stored = sp.csr_matrix(np.array([[0, 1.0], [2.0, 3.0]]))
    stored.data[0] = 0  # an explicit zero stays where it is
    inspect_matrix(stored)
    assert stored.nnz == 3
    with pytest.raises(ValueError, match="expected integers or floating-point"):
        inspect_matrix(np.array([["a", "b"]]))
    with pytest.raises(ValueError, match="cells x genes"):
        inspect_matrix(np.arange(3))


def test_lines_tell_base_and_target():
    logs_ng = np.log1p(normalise(planted_counts(50, 300, 2000, 1), 1e4))
    assert "base e, target sum 10000" in inspect_matrix(logs_ng).lines()[0]
