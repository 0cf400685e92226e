"""States of genes on disk, and cells whose depth is told otherwise than by counts."""

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from cellwright.data.contexts import check_contexts_out, is_contexts, save_contexts
from cellwright.data.depths import BulkSamples, GivenTotals, listed_totals, totals_column
from cellwright.models import FAMILIES, new_model
from cellwright.tasks.gene_contexts import gene_contexts
from cellwright.tasks.inference import InferenceOptions
from cellwright.types import CellBatch, Draw
from cellwright.vocab import GeneVocab

QUIET = InferenceOptions(progress=False, device="cpu")
GENES = [f"G{i}" for i in range(12)]


class Source:
    """Three cells of four, one and no genes, in memory."""

    def __init__(self, vocab, state="raw", num_copies=1):
        self.vocab, self.state = vocab, state
        cells = CellBatch(
            indptr_n1=np.array([0, 4, 5, 5]),
            gene_z=np.array([0, 3, 5, 11, 2], np.int32),
            value_z=np.array([1, 2, 3, 4, 30], np.float32),
            row_n=np.arange(3),
            total_n=np.array([10.0, 30.0, 0.0]),
            state=state,
        )
        self.cells = cells.take(np.tile([0, 1], num_copies)) if num_copies > 1 else cells

    def __len__(self):
        return len(self.cells)

    def read(self, rows):
        return self.cells.take(np.asarray(rows))


@pytest.fixture(scope="module")
def model():
    family = FAMILIES["scfoundation"]
    return new_model("scfoundation", GeneVocab.from_genes(GENES, family.specials), family.sizes["tiny"])


def blocks(*lengths, stop=None):
    start = 0
    for number, length in enumerate(lengths):
        if number == stop:
            raise RuntimeError("the machine stopped")
        yield start, np.full((length, 2, 3), start, np.float32)
        start += length


def test_a_store_is_whole_or_absent(tmp_path):
    out, names = tmp_path / "x.zarr", {"cells": ["a", "b", "c"], "genes": ["G1", "G2"], "record": {"n": 1}}
    for wrong in ((2,), (2, 2)):
        with pytest.raises(ValueError, match="does not fit|hold 2 of 3"):
            save_contexts(out, blocks(*wrong), **names)
    with pytest.raises(ValueError, match="does not fit"):
        save_contexts(out, blocks(3), **(names | {"genes": ["G1"]}))
    assert not list(tmp_path.iterdir())
    assert save_contexts(out, blocks(2, 1), **names) == (3, 2, 3)
    assert is_contexts(out)
    with pytest.raises(RuntimeError, match="the machine stopped"):
        save_contexts(out, blocks(2, 1, stop=1), **(names | {"record": {"n": 2}}))
    root = zarr.open_group(str(out), mode="r")
    assert [path.name for path in tmp_path.iterdir()] == ["x.zarr"]
    assert root.attrs["record"] == {"n": 1}
    assert root["contexts"][:, 0, 0].tolist() == [0, 0, 2]
    assert check_contexts_out(out) == out
    with pytest.raises(ValueError, match="is the place of the cells"):
        check_contexts_out(out, others=(tmp_path / "." / "x.zarr",))


def test_bulk_samples_are_scaled_to_their_median(model):
    source = Source(model.vocab)
    bulk = BulkSamples(source)
    assert listed_totals(source).tolist() == [10, 30, 0]
    assert (bulk.median, bulk.state) == (20, "log1p")
    found = bulk.read(np.array([1, 0, 2]))
    np.testing.assert_allclose(found.value_z, np.log1p([20, 2, 4, 6, 8]), rtol=1e-6)
    assert source.read([0]).value_z.tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="the values are log1p"):
        BulkSamples(Source(model.vocab, "log1p"))


def test_given_totals_follow_the_rows(model):
    given = GivenTotals(Source(model.vocab, "log1p"), np.array([5.0, 6.0, 7.0]))
    assert given.read(np.array([2, 0])).total_n.tolist() == [7, 5]
    obs = pd.DataFrame({"umis": pd.array([1, 2, None], dtype="Int64")}, index=list("abc"))
    with pytest.raises(ValueError, match=r"obs\['umis'\] is nan for cell 'c'"):
        totals_column(obs, "umis")
    with pytest.raises(ValueError, match="did you mean 'umis'"):
        totals_column(obs, "umi")


def test_a_changed_record_shares_the_weights(model):
    twin = model.with_config(["pooling=max"])
    assert (model.network.width, twin.network.width) == (128, 32)
    for name, value in model.network.state_dict().items():
        assert twin.network.state_dict()[name].data_ptr() == value.data_ptr(), name
    with pytest.raises(ValueError, match="do not fit encoder_layers=1"):
        model.with_config(["encoder_layers=1"])
    assert model.with_inputs(depth="f2").inputs.depth == "f2"
    assert model.inputs.depth == "t4"


def test_states_come_in_blocks_and_in_order(model):
    many = Source(model.vocab, num_copies=5)
    ids = np.array([5, 0, 7])
    found = gene_contexts(model, many, gene_ids=ids, options=QUIET)
    assert found.genes == ("G5", "G0", "G7")
    parts = list(found)
    assert [start for start, _ in parts] == [0, 4, 8]
    state_ngd = np.concatenate([block for _, block in parts])
    with torch.inference_mode():
        tokens = model.tokenizer(genes="panel")(many.read([1]), Draw())
        wanted_td = model.network.eval()(tokens, {"context_ntd"}).context_ntd[0]
    for row in (1, 3, 9):
        np.testing.assert_allclose(state_ngd[row], wanted_td[ids].numpy(), atol=1e-5)
    together = np.concatenate([block for _, block in gene_contexts(model, many, is_together=True, options=QUIET)])
    assert together.shape == (10, 12, 32)
    with pytest.raises(ValueError, match="gene id 12 is none of the 12"):
        gene_contexts(model, many, gene_ids=np.array([12]))
    with pytest.raises(ValueError, match="max_length = 9: genes are read in cells with all genes"):
        gene_contexts(model, many, options=QUIET.model_copy(update={"max_length": 9}))
    with pytest.raises(ValueError, match="130 cells are too many for one pass"):
        gene_contexts(model, Source(model.vocab, num_copies=65), is_together=True)
    with pytest.raises(ValueError, match="leave such cells out"):
        list(gene_contexts(model, Source(model.vocab), options=QUIET))
