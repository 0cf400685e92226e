"""Compact two public data sets into the package: ``build_demo_data.py SOURCE_FOLDER``.

SOURCE_FOLDER holds ``pbmc3k.h5ad`` and ``pbmc_facs_zheng.h5ad`` with raw counts. Counts become uint16 CSR with int32
indices, compressed and byte-shuffled; genes are put in the order of how many cells express them, and names are stored
with a fixed length (both compress better); only columns that examples need are kept. Prints size and SHA-256 of each
file, which belong into ``cellwright/data/datasets.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import write_elem

from cellwright.files import atomic_path, sha256_file

OUT = Path(__file__).parents[1] / "src/cellwright/data/resources"
OBS = ("cell_type", "cell_type_coarse", "cell_type_ontology_term_id", "batch", "donor", "tissue", "assay")
CITATIONS = {
    "pbmc3k": "10x Genomics, 3k PBMCs from a Healthy Donor (2016); labels: Satija lab, Seurat tutorial",
    "pbmc_facs_zheng": "Zheng et al. 2017, Nature Communications 8:14049 (10.1038/ncomms14049), SRP073767",
}
LICENCE = "CC BY 4.0 (10x Genomics public data sets)"
PACKED = {"compression": "gzip", "compression_opts": 9, "shuffle": True}


def compact(name: str, source: Path, out: Path) -> str:
    """Write one data set and return a line about it."""
    full = anndata.read_h5ad(source)
    counts_ng = sp.csr_matrix(full.X)
    counts_ng.eliminate_zeros()
    full = full[:, np.argsort(-counts_ng.getnnz(axis=0), kind="stable")]
    counts_ng = sp.csr_matrix(full.X)
    counts_ng.sort_indices()
    if (counts_ng.data != np.rint(counts_ng.data)).any() or counts_ng.data.max() > np.iinfo(np.uint16).max:
        raise ValueError(f"{source} does not hold counts below 65,536")
    packed_ng = sp.csr_matrix(
        (counts_ng.data.astype(np.uint16), counts_ng.indices.astype(np.int32), counts_ng.indptr.astype(np.int32)),
        shape=counts_ng.shape,
    )
    obs = full.obs[[column for column in OBS if column in full.obs]].astype("category")
    obs["study"] = pd.Categorical([name] * len(obs))
    var = pd.DataFrame({"ensembl_id": full.var["ensembl_id"].astype(str)}, index=full.var_names.astype(str))
    origin = full.uns["source"]
    uns = {
        "source": f"{origin['repository']} ({origin['repository_license']}), {origin['path']}, {origin['commit']}",
        "licence": LICENCE,
        "citation": CITATIONS[name],
        "note": origin["note"],
    }
    with atomic_path(out) as draft:
        small = anndata.AnnData(packed_ng, obs=obs, var=var, uns=uns)
        with h5py.File("scratch", "w", driver="core", backing_store=False) as file:
            for key, value in {"encoding-type": "anndata", "encoding-version": "0.1.0"}.items():
                file.attrs[key] = value
            for place in ("X", "obs", "var"):
                write_elem(file, place, getattr(small, place), dataset_kwargs=PACKED)
            write_elem(file, "uns", uns)
            for at in ("obs/_index", "var/_index", "var/ensembl_id"):
                fix_length(file, at)
            for at in ("X/data", "X/indices"):
                repack(file, at)
            with h5py.File(draft, "w", libver="earliest") as packed:  # a copy leaves the deleted parts behind
                packed.attrs.update(dict(file.attrs))
                for place in file:
                    file.copy(place, packed)
    back = anndata.read_h5ad(out)
    if (back.X != counts_ng).nnz or not (back.obs_names == full.obs_names).all():
        raise ValueError(f"{out} does not read back as it was")
    return f"{name}: {small.shape}, sum {int(counts_ng.sum())}, {out.stat().st_size:,} bytes, sha256 {sha256_file(out)}"


def fix_length(file: h5py.File, at: str) -> None:
    """Store text with a fixed length: the compressor does not reach text of variable length."""
    replace_dataset(file, at, np.char.encode(file[at].asstr()[:].astype(str), "utf-8"), chunks=True)


def repack(file: h5py.File, at: str) -> None:
    """Store a long array in large chunks, which compress better."""
    replace_dataset(file, at, file[at][:], chunks=(1 << 18,))


def replace_dataset(file: h5py.File, at: str, values: np.ndarray, chunks: object) -> None:
    """Write a dataset anew under the same name and attributes."""
    attributes = dict(file[at].attrs)
    del file[at]
    file.create_dataset(at, data=values, chunks=chunks, **PACKED).attrs.update(attributes)


def main() -> None:
    """Build both."""
    for name in CITATIONS:
        sys.stdout.write(compact(name, Path(sys.argv[1]) / f"{name}.h5ad", OUT / f"{name}.h5ad") + "\n")


if __name__ == "__main__":
    main()
