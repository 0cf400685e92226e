"""Tables of drug response: which cell line answered to which drug with which ln IC50, and what lines and drugs are.

Further axis letters here and in every file of drug response: ``p`` a measured pair of a cell line and a drug, ``l`` a
cell line, ``u`` a drug, ``f`` a feature of a cell line, ``a`` an atom, ``e`` a bond in one direction.

ln IC50 is the natural logarithm of the concentration (micromolar in GDSC) that halves growth: lower = more sensitive.
Nothing here is measured or shipped; tables come from the user. Structures are read in `cellwright.data.molecules`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cellwright.config import did_you_mean, some_of

Repeats = Literal["refuse", "mean", "keep"]
Unmatched = Literal["refuse", "drop"]


@dataclass(frozen=True, slots=True, eq=False)
class Responses:
    """Measured (or wanted) pairs of a cell line and a drug."""

    line_p: np.ndarray
    """int64: place of the pair's cell line in ``lines``."""
    drug_p: np.ndarray
    """int64: place of its drug in ``drugs``."""
    value_p: np.ndarray
    """float64: ln IC50; NaN everywhere where only answers are wanted."""
    lines: tuple[str, ...]
    drugs: tuple[str, ...]

    def __post_init__(self):
        for name, code_p, names in (("line_p", self.line_p, self.lines), ("drug_p", self.drug_p, self.drugs)):
            if code_p.shape != self.value_p.shape or code_p.dtype.kind not in "iu":
                raise ValueError(f"{name} is {code_p.dtype} {code_p.shape} for {self.value_p.shape} values")
            if len(code_p) and not 0 <= code_p.min() <= code_p.max() < len(names):
                raise ValueError(f"{name} runs from {code_p.min()} to {code_p.max()}, not within 0 .. {len(names) - 1}")

    def __len__(self) -> int:
        return len(self.value_p)

    def take(self, at_p: np.ndarray) -> Responses:
        """Return the pairs at these positions; names of lines and drugs, and so the codes, stay."""
        return Responses(self.line_p[at_p], self.drug_p[at_p], self.value_p[at_p], self.lines, self.drugs)

    def renamed(self, lines: Sequence[str], drugs: Sequence[str], *, unmatched: Unmatched = "refuse") -> Responses:
        """Return the pairs with codes into other lists of names, for instance those of a table of features.

        Parameters
        ----------
        lines, drugs
            The names that the new codes count in.
        unmatched
            What to do with pairs whose line or drug is not in the lists: refuse, or drop them.

        Raises
        ------
        ValueError
            When a name is missing and pairs are not to be dropped, or no pair is left.
        """
        codes, is_kept_p = [], np.ones(len(self), bool)
        for what, old, code_p, new in (
            ("cell line", self.lines, self.line_p, lines),
            ("drug", self.drugs, self.drug_p, drugs),
        ):
            place = {name: i for i, name in enumerate(new)}
            new_k = np.array([place.get(name, -1) for name in old], np.int64)
            used = np.unique(code_p)
            lost = [old[k] for k in used if new_k[k] < 0]
            if lost and unmatched == "refuse":
                raise ValueError(
                    f"{len(lost)} of {len(used)} {what}s of the responses are unknown ({_some(lost)})"
                    f"{did_you_mean(lost[0], new)}; known are {_some(list(new))}; give them, or leave their pairs out "
                    "with unmatched='drop'"
                )
            codes.append(new_k[code_p] if len(code_p) else code_p)
            is_kept_p &= codes[-1] >= 0
        if len(self) and not is_kept_p.any():
            raise ValueError(f"none of {len(self)} pairs has a known cell line and a known drug; check the names")
        return Responses(codes[0][is_kept_p], codes[1][is_kept_p], self.value_p[is_kept_p], tuple(lines), tuple(drugs))


@dataclass(frozen=True, slots=True, eq=False)
class LineFeatures:
    """What is known of each cell line: expression, an embedding, or anything else with one row a line."""

    lines: tuple[str, ...]
    value_lf: np.ndarray
    """float32, finite."""
    names: tuple[str, ...]
    """Name of each feature: gene names, or ``<key>_0``, ``<key>_1``, ... of an embedding."""
    notes: tuple[str, ...] = ()
    """What there is to say of how they were made."""

    def __post_init__(self):
        if self.value_lf.shape != (len(self.lines), len(self.names)) or not self.value_lf.size:
            raise ValueError(
                f"features are {self.value_lf.shape} for {len(self.lines)} cell lines and {len(self.names)} names"
            )
        for what, names in (("cell line", self.lines), ("feature", self.names)):
            if repeated := _first_repeat(names):
                raise ValueError(f"{what} {repeated!r} is there twice; average its rows or make the names unique")
        if not np.isfinite(self.value_lf).all():
            bad = np.flatnonzero(~np.isfinite(self.value_lf).all(1))
            raise ValueError(f"features of cell line {self.lines[bad[0]]!r} are not finite; clean or leave it out")

    def ordered(self, names: Sequence[str]) -> np.ndarray:
        """Return float32 ``[l, f]`` with the features in this order; further ones are left out.

        Raises
        ------
        ValueError
            When a feature is missing.
        """
        if tuple(names) == self.names:
            return self.value_lf
        place = {name: i for i, name in enumerate(self.names)}
        missing = [name for name in names if name not in place]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(names)} features that the model was trained on are missing "
                f"({_some(missing)}); give the same genes, or the embedding of the same model"
            )
        return self.value_lf[:, [place[name] for name in names]]


def read_table(table: str | Path | Any) -> Any:
    """Read a CSV (also ``.gz``) or TSV file as a DataFrame of text-preserving columns; a DataFrame is returned as is.

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    ValueError
        If it is no table.
    """
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        return table
    path = Path(table)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    separator = "\t" if {".tsv", ".txt"} & set(path.suffixes) else ","
    try:
        # names such as "NA" or "nan" are names here, never missing values
        return pd.read_csv(path, sep=separator, keep_default_na=False, na_values=[""])
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a table ({error})") from None


def read_responses(
    table: str | Path | Any,
    *,
    line: str = "line",
    drug: str = "drug",
    value: str | None = "ln_ic50",
    repeats: Repeats = "refuse",
) -> Responses:
    """Read a table with one row a measured pair.

    Parameters
    ----------
    table
        A CSV or TSV path, or a DataFrame.
    line, drug, value
        Names of its columns. ``value=None`` reads pairs that are only asked for.
    repeats
        What to do when a pair is there more than once: refuse; its mean; keep all rows (as DeepCDR does).

    Returns
    -------
    Responses, lines and drugs sorted by name, pairs in the order of the table (of first appearance when averaged).

    Raises
    ------
    ValueError
        A column is missing, a name or value is empty or not a finite number, or a pair is repeated.
    """
    frame = read_table(table)
    wanted = [line, drug] + ([] if value is None else [value])
    columns = [str(column) for column in frame.columns]
    for name in wanted:
        if name not in columns:
            raise ValueError(f"the responses have no column {name!r}{did_you_mean(name, columns)}; columns: {columns}")
    if not len(frame):
        raise ValueError("the table of responses has no rows")
    for name in wanted:
        if (num := int(frame[name].isna().sum())) > 0:
            raise ValueError(f"column {name!r} is empty in {num} of {len(frame)} rows; drop these rows")
    codes = [np.unique(frame[name].astype(str).to_numpy(str), return_inverse=True) for name in (line, drug)]
    (lines, line_p), (drugs, drug_p) = [(tuple(n.tolist()), c.ravel().astype(np.int64)) for n, c in codes]
    value_p = np.full(len(frame), np.nan) if value is None else _numbers(frame[value], value)
    found = Responses(line_p, drug_p, value_p, lines, drugs)
    return _without_repeats(found, repeats)


def _numbers(column: Any, name: str) -> np.ndarray:
    import pandas as pd

    value_p = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(value_p))
    if len(bad):
        raise ValueError(f"column {name!r} holds {column.iloc[bad[0]]!r} in row {bad[0] + 1}; ln IC50 is a number")
    return value_p


def _without_repeats(found: Responses, repeats: Repeats) -> Responses:
    pair_p = found.line_p * len(found.drugs) + found.drug_p
    _, first, kind_p, count = np.unique(pair_p, return_index=True, return_inverse=True, return_counts=True)
    if repeats == "keep" or count.max() == 1:
        return found
    if repeats == "refuse":
        at = first[np.argmax(count)]
        raise ValueError(
            f"{int((count > 1).sum())} pairs are measured more than once, for instance "
            f"({found.lines[found.line_p[at]]}, {found.drugs[found.drug_p[at]]}); choose repeats='mean' or 'keep'"
        )
    mean = np.bincount(kind_p, found.value_p) / count
    order = np.argsort(first)
    kept = found.take(first[order])
    return Responses(kept.line_p, kept.drug_p, mean[order], kept.lines, kept.drugs)


def read_lines(data: Any, *, key: str | None = None, name: str | None = None, layer: str | None = None) -> LineFeatures:
    """Read features of cell lines.

    Parameters
    ----------
    data
        AnnData or the path of an .h5ad (rows = lines); a DataFrame (index = lines); a CSV path (first column = lines);
        or ``(names, array)``.
    key
        For AnnData: slot of ``obsm`` to read, such as ``X_scGPT``; ``None`` = X (or ``layer``).
    name
        For AnnData: column of ``obs`` that holds the names of the lines; ``None`` = ``obs_names``.
    layer
        For AnnData: layer to read instead of X.

    Raises
    ------
    ValueError
        An unknown slot or column, names that are not unique, or values that are not finite.
    """
    import pandas as pd

    if isinstance(data, tuple):
        value_lf = np.asarray(data[1], np.float32)
        if value_lf.ndim != 2:
            raise ValueError(f"features are {value_lf.shape}; one row a cell line is needed")
        return LineFeatures(tuple(map(str, data[0])), value_lf, _numbered("feature", value_lf.shape[1]))
    if isinstance(data, str | Path) and Path(data).suffix not in (".h5ad", ".zarr"):
        frame = read_table(data)
        data = frame.set_index(frame.columns[0])
    if isinstance(data, pd.DataFrame):
        if bad := [str(c) for c in data.columns if not pd.api.types.is_numeric_dtype(data[c])]:
            raise ValueError(f"column {bad[0]!r} of the cell lines' table holds no numbers; leave it out")
        return LineFeatures(_text(data.index), data.to_numpy(np.float32), _text(data.columns))
    return _from_anndata(data, key=key, name=name, layer=layer)


def _from_anndata(data: Any, *, key: str | None, name: str | None, layer: str | None) -> LineFeatures:
    import scipy.sparse as sp

    from cellwright.data.sources import read_anndata

    adata = read_anndata(data)
    if name is not None and name not in adata.obs:
        columns = [str(column) for column in adata.obs.columns]
        raise ValueError(f"obs has no column {name!r}{did_you_mean(name, columns)}; columns: {columns}")
    lines = _text(adata.obs_names if name is None else adata.obs[name])
    slot, kind = (key, adata.obsm) if key is not None else (layer, adata.layers)
    if slot is not None and slot not in kind:
        place = "obsm" if key is not None else "layers"
        raise ValueError(f"{place} has no {slot!r}{did_you_mean(slot, kind)}; it has {sorted(map(str, kind))}")
    matrix = adata.X if slot is None else kind[slot]
    if matrix is None:
        raise ValueError("the cell lines' data have no X; name a layer, or an embedding in obsm")
    value_lf = np.asarray(matrix.toarray() if sp.issparse(matrix) else matrix, np.float32)
    names = _text(adata.var_names) if key is None else _numbered(key, value_lf.shape[1])
    return LineFeatures(lines, value_lf, names)


def read_smiles(table: str | Path | Any, *, drug: str = "drug", smiles: str = "smiles") -> dict[str, str]:
    """Read drug -> SMILES from a table.

    Raises
    ------
    ValueError
        A column is missing, a drug is there twice, or a structure is empty.
    """
    frame = read_table(table)
    columns = [str(column) for column in frame.columns]
    for column in (drug, smiles):
        if column not in columns:
            raise ValueError(f"the drugs have no column {column!r}{did_you_mean(column, columns)}; columns: {columns}")
    names = _text(frame[drug])
    if repeated := _first_repeat(names):
        raise ValueError(f"drug {repeated!r} is in the table of drugs twice")
    if frame[smiles].isna().any():
        missing = names[int(np.flatnonzero(frame[smiles].isna())[0])]
        raise ValueError(f"drug {missing!r} has no SMILES; give one, or leave its row out")
    return dict(zip(names, _text(frame[smiles]), strict=True))


def identity_features(lines: Sequence[str]) -> LineFeatures:
    """Return one-hot features: they say which line it is and nothing else, the control of any representation."""
    return LineFeatures(tuple(lines), np.eye(len(lines), dtype=np.float32), _numbered("line", len(lines)))


def random_features(lines: Sequence[str], width: int, *, seed: int) -> LineFeatures:
    """Return standard normal features: another name tag for each line, without information about unseen ones."""
    value_lf = np.random.default_rng(seed).standard_normal((len(lines), width)).astype(np.float32)
    return LineFeatures(tuple(lines), value_lf, _numbered("random", width))


def _numbered(stem: str, num: int) -> tuple[str, ...]:
    return tuple(f"{stem}_{i}" for i in range(num))


def _text(values: Any) -> tuple[str, ...]:
    return tuple(map(str, values))


def _first_repeat(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


def _some(names: Sequence[str]) -> str:
    return some_of([repr(name) for name in names], 5)


def table_of(responses: Responses, columns: Mapping[str, np.ndarray]) -> Any:
    """Return a DataFrame with the columns line, drug and those given, one row a pair."""
    import pandas as pd

    names = {
        "line": np.array(responses.lines, dtype=object)[responses.line_p],
        "drug": np.array(responses.drugs, dtype=object)[responses.drug_p],
    }
    return pd.DataFrame({**names, **columns})
