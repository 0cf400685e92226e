"""Several data sets on one new vocabulary."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from cellwright.data.joined import open_together

GENES = ("CD3D", "CD19", "NKG7", "LYZ", "MS4A1", "GNLY")
ACCEPTS = ("raw", "normalised", "log1p")


def cells_of(genes, num_cells: int, seed: int, **obs) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    counts_ng = rng.poisson(3.0, (num_cells, len(genes))).astype(np.float32)
    names = [f"s{seed}_{i}" for i in range(num_cells)]
    frame = pd.DataFrame({key: [value] * num_cells for key, value in obs.items()}, index=names)
    return anndata.AnnData(sp.csr_matrix(counts_ng), obs=frame, var=pd.DataFrame(index=list(genes)))


def dense(batch, vocab) -> np.ndarray:
    out_ng = np.zeros((len(batch), len(vocab)), np.float32)
    for n in range(len(batch)):
        part = slice(batch.indptr_n1[n], batch.indptr_n1[n + 1])
        out_ng[n, batch.gene_z[part]] = batch.value_z[part]
    return out_ng


def test_rows_come_in_the_order_asked_whatever_their_source():
    first, second = cells_of(GENES, 5, 0, donor="a"), cells_of(GENES[::-1], 4, 1, donor="b", extra=1)
    joined = open_together([first, second], specials={"pad": "<pad>"}, accepts=ACCEPTS, min_cells=1)
    assert len(joined) == 9
    assert list(joined.obs.columns) == ["donor", "source"]
    assert joined.obs["donor"].tolist() == ["a"] * 5 + ["b"] * 4
    rows = np.array([8, 0, 5, 4, 4, 1])
    batch = joined.read(rows)
    assert batch.row_n.tolist() == rows.tolist()
    got_ng = dense(batch, joined.vocab)
    for n, row in enumerate(rows):
        source, at = (first, row) if row < 5 else (second, row - 5)
        want = dict(zip(source.var_names, source.X[at].toarray()[0], strict=True))
        found = {joined.vocab.tokens[g]: got_ng[n, g] for g in np.flatnonzero(got_ng[n])}
        assert found == {gene: value for gene, value in want.items() if value}


def test_genes_of_one_source_only_are_kept_and_synonyms_are_one_gene():
    first, second = cells_of(("CD3D", "MS4A1"), 6, 0), cells_of(("ENSG00000167286.9", "GNLY"), 6, 1)
    joined = open_together([first, second], specials={}, accepts=ACCEPTS, min_cells=1)
    assert sorted(joined.vocab.genes) == ["CD3D", "GNLY", "MS4A1"]


def test_rare_genes_fall_out():
    counts = cells_of(GENES, 10, 0)
    counts.X = sp.csr_matrix(np.where(np.arange(len(GENES)) == 2, np.eye(10, len(GENES)), counts.X.toarray()))
    joined = open_together([counts], specials={}, accepts=ACCEPTS, min_cells=3)
    assert "NKG7" not in joined.vocab.genes


def test_as_many_variable_genes_are_kept_as_asked_for():
    counts = cells_of([f"GENE{i}" for i in range(60)], 50, 0)
    counts_ng = counts.X.toarray()
    counts_ng[1:, :20] = 0  # in one cell each: the most variable of all, and too rare to keep
    counts.X = sp.csr_matrix(counts_ng * 40)
    joined = open_together([counts], specials={"pad": "<pad>"}, accepts=ACCEPTS, num_genes=30, min_cells=3)
    assert len(joined.vocab.genes) == 30
    assert not set(joined.vocab.genes) & {f"GENE{i}" for i in range(20)}


def test_counts_in_raw_bring_their_own_genes():
    whole = cells_of(GENES, 8, 0)
    shown = whole[:, list(GENES[:2])].copy()
    shown.raw = whole
    shown.X = sp.csr_matrix(np.log1p(shown.X.toarray() / 3))
    joined = open_together([shown], specials={}, accepts=("raw",), min_cells=1)
    assert set(joined.vocab.genes) == set(GENES)


def test_states_are_not_mixed_and_can_be_assumed():
    first, second = cells_of(GENES, 40, 0), cells_of(GENES, 40, 1)
    total_n1 = second.X.sum(1)
    second.X = sp.csr_matrix(np.log1p(second.X.toarray() / np.asarray(total_n1) * 1e4))
    with pytest.raises(ValueError, match="log1p, raw"):
        open_together([first, second], specials={}, accepts=ACCEPTS, min_cells=1)
    joined = open_together([first], specials={}, accepts=ACCEPTS, min_cells=1, assume="normalised")
    assert joined.state == "normalised"


def test_no_data_and_an_unknown_layer_are_refused():
    with pytest.raises(ValueError, match="no data"):
        open_together([], specials={}, accepts=ACCEPTS)
    with pytest.raises(ValueError, match="spliced"):
        open_together([cells_of(GENES, 5, 0)], specials={}, accepts=ACCEPTS, layer="spliced")


def test_metadata_become_words_and_codes():
    first, second = cells_of(GENES, 3, 0, organ="Lung", sex="f"), cells_of(GENES, 2, 1, organ="Liver")
    given = {"place": "organ"}
    joined = open_together(
        [first, second], specials={"end": "<E>"}, accepts=ACCEPTS, min_cells=1, num_genes=4, metadata=given
    )
    assert joined.vocab.categories == {"place": ("Liver", "Lung")}
    assert len(joined.vocab.genes) == 4
    assert joined.codes("place").tolist() == [1, 1, 1, 0, 0]
    batch = joined.read(np.array([4, 0, 3]))
    assert batch.obs["place"].tolist() == [0, 1, 0]
    alone = open_together([first, second], specials={"end": "<E>"}, accepts=ACCEPTS, min_cells=1, num_genes=4)
    assert alone.vocab.genes == joined.vocab.genes
    assert not alone.vocab.categories
    with pytest.raises(ValueError, match=r"no column 'orgn' for the category 'place'; did you mean 'organ'\?"):
        open_together([first], specials={}, accepts=ACCEPTS, min_cells=1, metadata={"place": "orgn"})
    with pytest.raises(ValueError, match="no column 'sex' for the category 'sex'; columns: organ"):
        open_together([first, second], specials={}, accepts=ACCEPTS, min_cells=1, metadata={"sex": "sex"})
