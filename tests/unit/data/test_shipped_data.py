"""The shipped data sets are what their table says, and the synthetic cells what their text says."""

import numpy as np
import pytest

from cellwright.data import DATASETS, dataset_path, inspect_matrix, load_dataset, make_cells, open_cells, split_cells
from cellwright.vocab import GeneVocab

SUMS = {"pbmc3k": 6254880, "pbmc_facs_zheng": 7675054}


@pytest.mark.parametrize("name", list(DATASETS))
def test_shipped_data_are_counts_with_labels_and_provenance(name):
    about, adata = DATASETS[name], load_dataset(name)
    assert adata.shape == (about.num_cells, about.num_genes)
    assert int(adata.X.sum()) == SUMS[name]
    assert adata.X.dtype == np.uint16
    assert inspect_matrix(adata.X).kind == "raw"
    assert adata.obs[[about.label, "cell_type_coarse", "study"]].notna().all(axis=None)
    assert adata.uns["licence"].startswith(about.licence)
    assert adata.uns["citation"]
    assert adata.var["ensembl_id"].str.match("ENSG|$").all()
    assert len(dataset_path(name).read_bytes()) < 5e6
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique


def test_shared_coarse_labels():
    labels = [set(load_dataset(name).obs["cell_type_coarse"]) for name in ("pbmc3k", "pbmc_facs_zheng")]
    assert labels[0] & labels[1] == {"B", "CD14 Mono", "CD4 T", "CD8 T", "NK"}
    assert labels[0] - labels[1] == {"DC", "FCGR3A Mono", "Megakaryocyte"}
    assert labels[1] - labels[0] == {"HSPC"}


def test_the_data_door_opens_them_and_sorted_runs_are_not_taken_for_donors():
    adata = load_dataset("pbmc_facs_zheng")
    vocab = GeneVocab(sorted(load_dataset("pbmc3k").var_names))
    cells = open_cells(dataset_path("pbmc_facs_zheng"), vocab)
    assert cells.contract.coverage["vocab_genes"] > 0.95
    assert cells.contract.warnings == ()
    assert split_cells(adata.obs, label="cell_type").by == "cells"


def test_unknown_names_get_a_hint():
    with pytest.raises(ValueError, match="no data set 'pbmc3'; did you mean 'pbmc3k'"):
        load_dataset("pbmc3")


def test_synthetic_cells_are_deterministic_counts_with_planted_types():
    adata = make_cells(60, 40, seed=1)
    again, other = make_cells(60, 40, seed=1), make_cells(60, 40, seed=2)
    assert (adata.X != again.X).nnz == 0
    assert (adata.X != other.X).nnz > 0
    assert inspect_matrix(adata.X).kind == "raw"
    assert (adata.X.sum(1) > 0).all()
    assert adata.obs.groupby(["cell_type", "tech_batch"], observed=False).size().tolist() == [10] * 6
    assert (adata.obs.groupby("donor", observed=True)["tech_batch"].nunique() == 1).all()
    means = adata.to_df().groupby(adata.obs["cell_type"], observed=True).mean()
    for kind, genes in adata.uns["planted"].items():
        assert means.loc[kind, genes].mean() > 2 * means.drop(index=kind)[genes].mean(axis=None)


def test_synthetic_names_and_refusals():
    assert make_cells(6, 3, gene_names=["CD3E", "MS4A1", "NKG7", "CD4"]).var_names.tolist() == ["CD3E", "MS4A1", "NKG7"]
    assert (make_cells(50, 5, depth=0.1).X.sum(1) > 0).all()
    with pytest.raises(ValueError, match="too few"):
        make_cells(10, 2, num_types=3)
    with pytest.raises(ValueError, match="gene_names holds 1 names for 5 genes"):
        make_cells(10, 5, gene_names=["CD3E"])
