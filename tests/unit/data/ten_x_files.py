"""Writes small 10x files, as Cell Ranger 2 and 3 lay them out: 3 cells, 4 features, one gene twice."""

import gzip
import io

import h5py
import numpy as np
import scipy.io
import scipy.sparse as sp

COUNTS = np.array([[0, 2, 0, 5], [1, 0, 0, 0], [0, 0, 3, 1]], dtype=np.int32)
SYMBOLS = ["CD3E", "MS4A1", "NKG7", "MS4A1"]
IDS = ["ENSG00000198851", "ENSG00000156738", "ENSG00000105374", "ENSG00000999999"]


def write_10x(path, version, kinds=None, genomes=("GRCh38",)):
    stored = sp.csr_matrix(COUNTS)  # genes x cells by column is cells x genes by row
    with h5py.File(path, "w") as file:
        for genome in genomes if version == 2 else ("matrix",):
            group = file.create_group(genome)
            group["data"], group["indices"], group["indptr"] = stored.data, stored.indices, stored.indptr
            group["shape"] = np.array([4, 3])
            group["barcodes"] = np.array(["AAA-1", "CCC-1", "GGG-1"], dtype="S")
            if version == 2:
                group["genes"], group["gene_names"] = np.array(IDS, dtype="S"), np.array(SYMBOLS, dtype="S")
            else:
                features = group.create_group("features")
                features["id"], features["name"] = np.array(IDS, dtype="S"), np.array(SYMBOLS, dtype="S")
                features["feature_type"] = np.array(kinds or ["Gene Expression"] * 4, dtype="S")


def write_mtx(folder, is_gzipped, version=3, barcodes=("AAA-1", "CCC-1", "GGG-1")):
    folder.mkdir()
    matrix = io.BytesIO()
    scipy.io.mmwrite(matrix, sp.coo_matrix(COUNTS.T))
    kind = "\tGene Expression" if version == 3 else ""
    genes = "".join(f"{i}\t{s}{kind}\n" for i, s in zip(IDS, SYMBOLS, strict=True))
    texts = {
        "matrix.mtx": matrix.getvalue(),
        "barcodes.tsv": "".join(f"{b}\n" for b in barcodes).encode(),
        "features.tsv" if version == 3 else "genes.tsv": genes.encode(),
    }
    for name, text in texts.items():
        if is_gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text))
        else:
            (folder / name).write_bytes(text)
