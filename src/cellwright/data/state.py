"""What are the numbers in this matrix: counts, normalised, logarithms, scaled, bins?

The answer is inferred from the values alone, on up to about 2,000 rows spread over the matrix, and comes with the
numbers it rests on. Evidence is taken strongest first: integers; logarithms of integers; row sums that all equal one
target; values that are whole multiples of the smallest of their row (which survives a selection of genes); and only
then the size of the largest value.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

LOG_BASES = (math.e, 2.0, 10.0)
ROUND_TARGETS = (1.0, 1e3, 1e4, 1e5, 1e6)
_MAX_ENTRIES = 4_000_000
_LARGEST_LOG = 15.0  # exp(15) = 3.3 million: above any normalised value met in practice


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixState:
    """The state of a matrix and the evidence for it, from a sample of its rows."""

    kind: str
    """raw | normalised | log1p | scaled | binned | unknown."""
    reason: str
    """The decisive evidence in words."""
    target_sum: float | None = None
    """Total that each cell was scaled to, where that could be told."""
    log_base: float | None = None
    """Base of the logarithm when ``kind`` is log1p."""
    is_log_of_counts: bool = False
    """The values are logarithms of unscaled counts."""
    num_bins: int | None = None
    """Number of bins (0 included) when ``kind`` is binned."""
    dtype: str = "float32"
    num_rows: int = 0
    """Rows looked at."""
    num_values: int = 0
    """Values other than 0 among them."""
    minimum: float = 0.0
    maximum: float = 0.0
    integer_share: float = 1.0
    """Share of integers among the values other than 0."""
    zero_share: float = 1.0
    num_nan: int = 0
    """NaN and infinite values."""
    num_negative: int = 0
    first_bad: tuple[int, int, float] | None = None
    """(row, column, value) of the first NaN, infinite or negative value."""

    def record(self) -> dict[str, Any]:
        """Return the JSON form; values that JSON cannot hold become text."""
        out = asdict(self)
        if self.first_bad is not None:
            row, column, value = self.first_bad
            out["first_bad"] = [row, column, value if math.isfinite(value) else str(value)]
        return out

    def lines(self) -> list[str]:
        """Return the finding and its evidence as text."""
        head = self.kind
        if self.kind == "log1p":
            base = "unknown" if self.log_base is None else "e" if self.log_base == math.e else f"{self.log_base:g}"
            head += f" (base {base}, target sum {_or_unknown(self.target_sum)})"
        elif self.kind == "normalised":
            head += f" (target sum {_or_unknown(self.target_sum)})"
        elif self.kind == "binned":
            head += f" ({self.num_bins} bins)"
        return [f"values are {head}: {self.reason}", self.evidence()]

    def evidence(self) -> str:
        """Return the numbers behind the finding in one line."""
        text = (
            f"{self.num_rows} cells looked at, min {self.minimum:.4g}, max {self.maximum:.4g}, "
            f"{self.integer_share:.1%} of non-zero values are integers, {self.zero_share:.1%} zeros, {self.dtype}"
        )
        text += f", {self.num_negative} negative" if self.num_negative else ""
        return text + (f", {self.num_nan} NaN or infinite" if self.num_nan else "")


def _or_unknown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"


def unlog(values: np.ndarray, base: float | None) -> np.ndarray:
    """Invert ``log_base(1 + x)``; ``None`` = the values are linear already."""
    return values if base is None else np.expm1(values * math.log(base))


def inspect_matrix(matrix: Any, *, max_rows: int = 2000) -> MatrixState:
    """Tell what the numbers of a cells x genes matrix are.

    Parameters
    ----------
    matrix
        ``[n, g]``: numpy array, scipy sparse matrix of any format, or anything two-dimensional whose row slices
        give one of these (an HDF5 or zarr array, a sparse matrix on disk). It is not changed.
    max_rows
        Rows to look at; they are taken as blocks spread evenly, so that sorted data do not mislead.

    Returns
    -------
    MatrixState
        An all-zero matrix counts as raw. Matrices with NaN, infinite or negative values are never called raw,
        normalised or log1p.
    """
    shape = getattr(matrix, "shape", ())
    if len(shape) != 2:
        raise ValueError(f"expected a matrix of cells x genes, found an object of shape {tuple(shape)}")
    if np.dtype(matrix.dtype).kind not in "fiub":
        raise ValueError(f"the matrix holds {matrix.dtype} values; expected integers or floating-point numbers")
    rows, sample_ng = sample_rows(matrix, max_rows)
    value_z = sample_ng.data.astype(np.float64)
    known = _common(sample_ng, value_z, rows) | {"dtype": str(matrix.dtype)}
    if known["num_nan"]:
        return MatrixState(kind="unknown", reason="there are NaN or infinite values", **known)
    if known["num_negative"]:
        return MatrixState(kind="scaled", reason="there are negative values", **known)
    if not len(value_z):
        return MatrixState(kind="raw", reason="no value other than 0", **known)
    if known["integer_share"] == 1.0:
        num_bins = _num_bins(sample_ng, value_z)
        if num_bins is None:
            return MatrixState(kind="raw", reason="all values are non-negative integers", **known)
        reason = f"integers whose largest value is {num_bins - 1} in every cell"
        return MatrixState(kind="binned", reason=reason, num_bins=num_bins, **known)
    return MatrixState(**_fractional(sample_ng, value_z, known["integer_share"]), **known)


def sample_rows(matrix: Any, max_rows: int = 2000) -> tuple[np.ndarray, sp.csr_matrix]:
    """Return positions of rows spread evenly over the matrix, and these rows as CSR without stored zeros."""
    n = matrix.shape[0]
    if n <= max_rows:
        rows = np.arange(n)
    else:
        width = max(1, max_rows // 40)
        starts = np.linspace(0, n - width, max_rows // width).astype(np.int64)
        rows = np.unique(starts[:, None] + np.arange(width)[None])
    if sp.issparse(matrix):
        block_ng = (matrix if len(rows) == n else matrix.tocsr()[rows]).tocsr()
    else:
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
        # a dense matrix is made sparse run by run: the sample is never held dense as a whole
        blocks = [as_csr(matrix[int(run[0]) : int(run[-1]) + 1]) for run in _pieces(runs) if len(run)]
        block_ng = sp.vstack(blocks, format="csr") if blocks else sp.csr_matrix(matrix.shape)
    block_ng = sp.csr_matrix(block_ng)
    if (block_ng.data == 0).any():
        block_ng = block_ng.copy()
        block_ng.eliminate_zeros()
    step = math.ceil(block_ng.nnz / _MAX_ENTRIES)
    return (rows, block_ng) if step <= 1 else (rows[::step], block_ng[::step])


def _pieces(runs: list[np.ndarray]) -> list[np.ndarray]:
    return [piece for run in runs for piece in np.array_split(run, math.ceil(len(run) / 256) or 1)]


def as_csr(block: Any) -> sp.csr_matrix:
    """Return a block as CSR; a block that is CSR already is returned itself, not a copy."""
    if sp.issparse(block):
        return sp.csr_matrix(block)
    block_ng = np.asarray(block)
    # scipy's sparse formats know neither half precision nor booleans
    if block_ng.dtype == np.float16:
        block_ng = block_ng.astype(np.float32)
    return sp.csr_matrix(block_ng)


def _common(sample_ng: sp.csr_matrix, value_z: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    is_finite_z = np.isfinite(value_z)
    finite_z = value_z if is_finite_z.all() else value_z[is_finite_z]
    size = sample_ng.shape[0] * sample_ng.shape[1]
    has_zero = sample_ng.nnz < size
    low = finite_z.min(initial=np.inf)
    high = finite_z.max(initial=-np.inf)
    bad = np.flatnonzero(~is_finite_z | (value_z < 0))
    first_bad = None
    if len(bad):
        at = np.searchsorted(sample_ng.indptr, bad[0], side="right") - 1
        first_bad = (int(rows[at]), int(sample_ng.indices[bad[0]]), float(value_z[bad[0]]))
    return {
        "num_rows": sample_ng.shape[0],
        "num_values": int(sample_ng.nnz),
        "minimum": float(min(low, 0.0) if has_zero or not len(finite_z) else low),
        "maximum": float(max(high, 0.0) if has_zero or not len(finite_z) else high),
        "integer_share": float((finite_z == np.rint(finite_z)).mean()) if len(finite_z) else 1.0,
        "zero_share": 1.0 - sample_ng.nnz / size if size else 1.0,
        "num_nan": int((~is_finite_z).sum()),
        "num_negative": int((finite_z < 0).sum()),
        "first_bad": first_bad,
    }


def _num_bins(sample_ng: sp.csr_matrix, value_z: np.ndarray) -> int | None:
    """Return the number of bins when integers look binned, else None.

    Bins reach the same largest value in every cell. Shallow counts may too, but only at 1 to 3, and then nearly
    all values are 1; where few cells are seen, more is asked.
    """
    starts = _starts(sample_ng)
    largest_n = np.maximum.reduceat(value_z, starts)
    top = value_z.max()
    if len(largest_n) < 2 or top < 4 or (largest_n == top).mean() < 0.95:
        return None
    is_flat = value_z.mean() > 0.3 * top
    if len(largest_n) < 5:
        return int(top) + 1 if top >= 8 and is_flat else None
    return int(top) + 1 if top >= 8 or is_flat else None


def _starts(sample_ng: sp.csr_matrix) -> np.ndarray:
    """Return where the rows that have values begin."""
    return sample_ng.indptr[:-1][np.diff(sample_ng.indptr) > 0]


def _fractional(sample_ng: sp.csr_matrix, value_z: np.ndarray, integer_share: float) -> dict[str, Any]:
    """Decide between normalised, log1p, scaled and unknown for non-negative values that are not all integers."""
    starts = _starts(sample_ng)
    is_half = sample_ng.dtype == np.float16 or _is_half_grid(value_z)
    linear = {base: unlog(value_z, base) for base in LOG_BASES if value_z.max() * math.log(base) < 50}
    for base, linear_z in linear.items():
        if _are_counts(linear_z, is_half):
            reason = "the inverse logarithm gives integers"
            return {"kind": "log1p", "reason": reason, "log_base": base, "is_log_of_counts": True}
    linear = {None: value_z, **linear}
    if (found := _by_row_sum(linear, starts, is_half)) is not None:
        return found
    if integer_share > 0.5:
        return {"kind": "unknown", "reason": "mostly integers, but not all (corrected or expected counts?)"}
    if (found := _by_multiples(linear, starts, is_half)) is not None:
        return found
    if _is_unit_variance(sample_ng, value_z):
        return {"kind": "scaled", "reason": "every gene has a standard deviation of 1"}
    if value_z.max() < _LARGEST_LOG:
        reason = f"fractions below {_LARGEST_LOG:g}, so probably logarithms (base e assumed)"
        return {"kind": "log1p", "reason": reason, "log_base": math.e}
    return {"kind": "unknown", "reason": "fractions that are neither normalised to one total nor logarithms"}


def _is_half_grid(value_z: np.ndarray) -> bool:
    """Whether values went through half precision, which widens every tolerance."""
    few_z = value_z[:2000]
    return bool((few_z.astype(np.float16, copy=True).astype(np.float64) == few_z).all()) if few_z.max() < 6e4 else False


def _are_counts(linear_z: np.ndarray, is_half: bool) -> bool:
    small_z = linear_z[linear_z < 50.5]
    if len(small_z) < 0.5 * len(linear_z):
        return False
    off_z = np.abs(small_z - np.rint(small_z)) / np.maximum(small_z, 1.0)
    # a value near 0 is no count: without this, tiny fractions would pass as zeros
    return bool(((off_z < (1e-2 if is_half else 1e-3)) & (small_z > 0.5)).mean() > 0.999)


def _by_row_sum(linear: dict[float | None, np.ndarray], starts: np.ndarray, is_half: bool) -> dict[str, Any] | None:
    tolerance = 1e-2 if is_half else 1e-3
    best: tuple[float, float | None, float] | None = None
    for base, linear_z in linear.items():
        sum_n = np.add.reduceat(linear_z, starts)
        target = float(np.median(sum_n))
        off_n = np.abs(sum_n / target - 1.0)
        near = min(ROUND_TARGETS, key=lambda t: abs(target / t - 1.0))
        is_round = abs(target / near - 1.0) < tolerance
        # two cells always have sums close to their median by chance; then only a round target convinces
        if (off_n < tolerance).mean() >= 0.95 and (len(sum_n) >= 3 or is_round):
            spread = float(off_n.mean()) if len(sum_n) >= 3 else abs(target / near - 1.0)
            if best is None or spread < best[0]:
                best = (spread, base, near if is_round else target)
    if best is None:
        return None
    _, base, target = best
    if base is None:
        return {"kind": "normalised", "reason": f"every cell sums to {target:g}", "target_sum": target}
    reason = f"the inverse logarithm sums to {target:g} in every cell"
    return {"kind": "log1p", "reason": reason, "target_sum": target, "log_base": base}


def _by_multiples(linear: dict[float | None, np.ndarray], starts: np.ndarray, is_half: bool) -> dict[str, Any] | None:
    """Find the scale on which values are whole multiples of the smallest one of their cell (a count of 1)."""
    length_n = np.diff(np.append(starts, len(next(iter(linear.values())))))
    tolerance = 0.03 if is_half else 0.005
    best: tuple[float, float, float | None] | None = None
    for base, linear_z in linear.items():
        ratio_z = linear_z / np.repeat(np.minimum.reduceat(linear_z, starts), length_n)
        ratio_z = ratio_z[(ratio_z > 1.2) & (ratio_z < 8.5)]
        if len(ratio_z) < 20:
            continue
        off_z = np.abs(ratio_z - np.rint(ratio_z))
        share, error = float((off_z < tolerance).mean()), float(np.median(off_z))
        if share >= 0.6 and (best is None or (-share, error) < best[:2]):
            best = (-share, error, base)
    if best is None:
        return None
    share = f"{-best[0]:.1%}"
    if best[2] is None:
        reason = f"{share} of values are multiples of the smallest of their cell, totals differ (genes were selected?)"
        return {"kind": "normalised", "reason": reason}
    reason = f"{share} of inverse logarithms are multiples of the smallest of their cell (genes were selected?)"
    return {"kind": "log1p", "reason": reason, "log_base": best[2]}


def _is_unit_variance(sample_ng: sp.csr_matrix, value_z: np.ndarray) -> bool:
    n, num_genes = sample_ng.shape
    if n < 50:
        return False
    sum_g = np.bincount(sample_ng.indices, weights=value_z, minlength=num_genes)
    square_g = np.bincount(sample_ng.indices, weights=value_z**2, minlength=num_genes)
    std_g = np.sqrt(np.maximum(square_g / n - (sum_g / n) ** 2, 0.0))
    std_g = std_g[std_g > 0]
    return bool((np.abs(std_g - 1.0) < 0.1).mean() > 0.8)
