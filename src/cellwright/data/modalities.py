"""Studies of several modalities as they come: MuData, AnnData with marked features or a protein slot, files to join.

`read_study` finds the modalities of one study and puts them into one order of cells; nothing is matched to a model
here. Cells may lack a modality, and so may a whole study: `cellwright.data.multimodal` puts studies together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.config import some_of
from cellwright.data.contract import COUNT_LAYERS
from cellwright.data.features import FeatureBlock, FeatureOptions, make_block, modality_named
from cellwright.data.sources import damaged, name_of, open_source, read_anndata
from cellwright.vocab import FEATURES, RNA

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

TYPE_COLUMNS = ("feature_types", "feature_type", "modality")
PROTEIN_SLOTS = ("protein_expression", "protein", "proteins", "protein_counts", "adt", "prot", "antibody")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """The modalities of one study, cells in one order."""

    name: str
    obs: pd.DataFrame
    rna: AnnData | None
    """Genes; ``None`` = the study has no RNA."""
    rna_row_n: np.ndarray
    """int64: row of each cell in ``rna``, -1 = the cell has no RNA."""
    blocks: Mapping[str, FeatureBlock]
    """Modality -> features of the cells of ``obs``."""
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return what was found, as text."""
        blocks = [note for block in self.blocks.values() for note in block.notes]
        return [f"{self.name}: {len(self.obs):,} cells", *blocks, *self.notes]


def read_study(data: Any, options: FeatureOptions | None = None) -> Study:
    """Find the modalities of one study.

    Parameters
    ----------
    data
        An AnnData or a path of one (.h5ad, .zarr, 10x .h5 or folder): features marked in ``var["feature_types"]`` as
        Gene Expression, Peaks, Antibody Capture, and/or protein counts in a slot of obsm. A MuData or its .h5mu:
        modalities called rna, prot, atac or alike. A mapping modality -> AnnData or path: joined by cell name.
    options
        How proteins and peaks are read.

    Returns
    -------
    Study
        A study of RNA alone is one too: another may have what it lacks.

    Raises
    ------
    FileNotFoundError, ValueError
        As `open_source`; features of no known kind only; a slot that is not there or has no names; repeated cell names
        where modalities must be joined, or joined data without a shared cell.
    """
    options = options or FeatureOptions()
    if isinstance(data, str | Path) and _is_mudata(Path(data)):
        return _from_mudata(_read_mudata(Path(data)), str(data), options)
    if hasattr(data, "mod"):
        return _from_mudata(data, "MuData", options)
    if isinstance(data, Mapping):
        parts = {}
        for word, item in data.items():
            if modality_named(word) is None:
                raise ValueError(f"{word!r} is no modality; name the parts {RNA}, {', '.join(FEATURES)}")
            parts[word] = item
        name = ", ".join(str(item) if isinstance(item, str | Path) else word for word, item in data.items())
        return _joined({word: read_anndata(item) for word, item in parts.items()}, name, options)
    return _from_anndata(data, options)


def _is_mudata(path: Path) -> bool:
    if not path.is_file():
        return False
    import h5py

    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return "mod" in file
    except OSError as error:
        raise damaged(path, error) from None


def _read_mudata(path: Path) -> Any:
    try:
        import mudata
    except ImportError:
        raise ValueError(
            f"{path} is a MuData file; install mudata to read it: pip install 'cellwright[mudata]'"
        ) from None
    try:
        # columns of single modalities stay with them: they are joined here, cell by cell
        with mudata.set_options(pull_on_update=False):
            return mudata.read_h5mu(path)
    except (OSError, KeyError, RuntimeError) as error:
        raise damaged(path, error) from None


def _from_anndata(data: Any, options: FeatureOptions) -> Study:
    """Take an AnnData apart; 10x data have the other features beside it."""
    name = name_of(data)
    opened = open_source(data)
    opened.close()
    adata = read_anndata(data)
    parts: dict[str, tuple[Any, Any]] = {}
    notes: list[str] = []
    rna: AnnData | None = adata
    if opened.others is not None:
        matrix, var = opened.others
        _apart(matrix, var["feature_types"], var.index, parts, notes)
    column = next((c for c in TYPE_COLUMNS if c in adata.var and adata.var[c].map(modality_named).notna().any()), None)
    if column is not None:
        kind_g = adata.var[column].map(modality_named).to_numpy(dtype=object)
        _apart(_counts(adata), adata.var[column], adata.var_names, parts, notes)
        rna = _genes(adata, np.flatnonzero(kind_g == RNA)) if (kind_g == RNA).any() else None
    if (slot := _slot(adata, options, name)) is not None:
        if "protein" in parts:
            raise ValueError(f"{name} has proteins among its features and in obsm[{slot!r}]; leave one of them out")
        parts["protein"] = _names_of(adata, slot, name), adata.obsm[slot]
    blocks = {
        modality: make_block(modality, names, matrix, options, where=f"{name}, {modality}s")
        for modality, (names, matrix) in parts.items()
    }
    rows = np.arange(adata.n_obs) if rna is not None else np.full(adata.n_obs, -1)
    return Study(name=name, obs=adata.obs.copy(), rna=rna, rna_row_n=rows, blocks=blocks, notes=tuple(notes))


def _apart(matrix: Any, kinds: Any, names: Any, parts: dict[str, tuple[Any, Any]], notes: list[str]) -> None:
    """Sort columns that are not genes by modality; features of other kinds (guides, hashtags) are left out."""
    kind_g = np.array([modality_named(kind) for kind in kinds], dtype=object)
    for modality in FEATURES:
        if (kind_g == modality).any():
            parts[modality] = list(np.asarray(names)[kind_g == modality]), matrix[:, np.flatnonzero(kind_g == modality)]
    if others := sorted({str(k) for k, kind in zip(kinds, kind_g, strict=True) if kind is None}):
        notes.append(f"features of other kinds are left out: {some_of(others)}")


def _genes(adata: AnnData, at_g: np.ndarray) -> AnnData:
    """Return matrices and tables of some columns; slots, which are of other things, stay behind."""
    from anndata import AnnData

    x_ng = None if adata.X is None else adata.X[:, at_g]
    layers = {name: matrix[:, at_g] for name, matrix in adata.layers.items()}
    return AnnData(x_ng, obs=adata.obs[[]].copy(), var=adata.var.iloc[at_g].copy(), layers=layers)


def _counts(adata: AnnData) -> Any:
    """Return the matrix of counts: a layer called so, else X."""
    name = next((name for name in COUNT_LAYERS if name in adata.layers), None)
    return adata.X if name is None else adata.layers[name]


def _slot(adata: AnnData, options: FeatureOptions, name: str) -> str | None:
    if options.slot is not None:
        if options.slot not in adata.obsm:
            raise ValueError(f"{name} has no obsm[{options.slot!r}]; it has {some_of(list(adata.obsm)) or 'none'}")
        return options.slot
    by_lower = {str(key).lower(): key for key in adata.obsm}
    return next((by_lower[slot] for slot in PROTEIN_SLOTS if slot in by_lower), None)


def _names_of(adata: AnnData, slot: str, name: str) -> list[str]:
    """Return the names of a slot's columns: those of a table, or a list in uns that is as long."""
    table = adata.obsm[slot]
    if hasattr(table, "columns"):
        return [str(column) for column in table.columns]
    for key in (f"{slot}_names", "protein_names", f"{slot}_columns"):
        found = adata.uns.get(key)
        if found is not None and len(found) == table.shape[1]:
            return [str(item) for item in found]
    raise ValueError(
        f"{name}: obsm[{slot!r}] has no names for its {table.shape[1]} columns; store a DataFrame, or put the names "
        f"into uns['{slot}_names']"
    )


def _from_mudata(mudata: Any, name: str, options: FeatureOptions) -> Study:
    known = {word: adata for word, adata in mudata.mod.items() if modality_named(word) is not None}
    if not known:
        raise ValueError(
            f"{name} has the modalities {some_of(list(mudata.mod))}; rename them {RNA}, {', '.join(FEATURES)}"
        )
    study = _joined(known, name, options)
    left_out = [word for word in mudata.mod if word not in known]
    notes = (f"modalities of other kinds are left out: {some_of(left_out)}",) if left_out else ()
    obs = study.obs
    shared = mudata.obs.reindex(obs.index)
    fresh = [column for column in shared.columns if column not in obs.columns]
    obs = obs.join(shared[fresh])
    return Study(
        name=name, obs=obs, rna=study.rna, rna_row_n=study.rna_row_n, blocks=study.blocks, notes=(*study.notes, *notes)
    )


def _joined(parts: Mapping[str, AnnData], name: str, options: FeatureOptions) -> Study:
    """Put modalities of separate tables into one order of cells: all names, in the order in which they are met."""
    import pandas as pd

    by_modality: dict[str, AnnData] = {}
    for word, adata in parts.items():
        modality = modality_named(word)
        if modality in by_modality:
            raise ValueError(f"{name} has {modality} twice; join the two first")
        if not adata.obs_names.is_unique:
            raise ValueError(
                f"{name}: cell names of {word} repeat, so that cells cannot be joined by name; make them unique"
            )
        by_modality[modality] = adata
    order = sorted(by_modality, key=(RNA, *FEATURES).index)
    names = pd.Index(list(dict.fromkeys(cell for m in order for cell in by_modality[m].obs_names.astype(str))))
    shared = [set(by_modality[m].obs_names.astype(str)) for m in order]
    if len(shared) > 1 and not set.intersection(*shared[:2]):
        some = [f"{m} has {sorted(cells)[0]!r}" for m, cells in zip(order[:2], shared, strict=False)]
        raise ValueError(
            f"{name}: no cell is in both {order[0]} and {order[1]} ({', '.join(some)}); are names written alike?"
        )
    obs = pd.DataFrame(index=names)
    for modality in order:
        table = by_modality[modality].obs
        table = table.set_axis(table.index.astype(str))
        for column in table.columns:
            known = obs[column] if column in obs else pd.Series(index=names, dtype=object)
            filled = known.astype(object).where(known.notna(), table[column].astype(object).reindex(names))
            obs[column] = filled.infer_objects()
    rows = {m: pd.Index(by_modality[m].obs_names.astype(str)).get_indexer(names) for m in order}
    blocks = {
        m: make_block(m, by_modality[m].var_names, _counts(by_modality[m]), options, where=f"{name}, {m}s").spread(
            rows[m]
        )
        for m in order
        if m != RNA
    }
    none = np.full(len(names), -1)
    return Study(name=name, obs=obs, rna=by_modality.get(RNA), rna_row_n=rows.get(RNA, none), blocks=blocks)
