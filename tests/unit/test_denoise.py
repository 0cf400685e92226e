"""Denoising with a small untrained network of the family that knows depth: order, depth, genes, cells without any."""

import numpy as np
import pytest
import torch

import cellwright
from cellwright.data import make_cells, open_cells
from cellwright.evaluate.depth_cases import ThinnedCells, recounted
from cellwright.models import FAMILIES, InputConfig, new_model
from cellwright.tasks.denoise import answered_ids, denoise_blocks, denoise_cells
from cellwright.tokens import DepthTarget
from cellwright.types import Draw
from cellwright.vocab import GeneVocab

QUIET = cellwright.InferenceOptions(progress=False, device="cpu")
FOLD = DepthTarget("fold", 5.0)
NUM_GENES = 30


def small_model(family="scfoundation", **inputs):
    chosen = FAMILIES[family]
    vocab = GeneVocab.from_genes([f"GENE{g:04d}" for g in range(NUM_GENES)], chosen.specials)
    model = new_model(family, vocab, chosen.sizes["tiny"], seed=1, inputs=InputConfig(**inputs))
    with torch.no_grad():
        for name, weight in model.network.named_parameters():
            if "value_head" in name:
                weight.add_(0.2)
    return model


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def adata():
    """40 genes, ten of which the model does not know, one cell without any of those that it knows."""
    made = make_cells(23, NUM_GENES + 10, seed=4)
    values_ng = made.X.toarray()
    values_ng[7, :NUM_GENES] = 0
    made.X = type(made.X)(values_ng)
    return made


def cells_of(adata, model, **options):
    return open_cells(adata, model.vocab, accepts=model.family.accepts, **options)


def test_answers_are_those_of_the_network_in_the_order_of_the_cells(model, adata):
    source = cells_of(adata, model)
    found = denoise_cells(model, source, FOLD, options=QUIET)
    assert found.value_ng.shape == (23, NUM_GENES)
    assert found.value_ng.dtype == np.float32
    assert found.genes == model.vocab.genes
    assert found.num_empty == 1
    assert np.isnan(found.value_ng[7]).all()
    assert np.nanmin(found.value_ng) >= 0
    assert np.nanmax(found.value_ng) > 0
    tokens = model.tokenizer(genes="panel", depth="f5")(source.read(np.array([3])), Draw())
    with torch.inference_mode():
        value_nt = model.network.eval()(tokens, {"value_nt"}).value_nt
    expected_g = value_nt[0, :NUM_GENES].clamp(min=0).numpy()  # genes come first, in ascending order of id
    np.testing.assert_allclose(found.value_ng[3], expected_g, rtol=1e-5, atol=1e-6)


def test_minibatches_blocks_and_layouts_change_nothing(model, adata, monkeypatch):
    source = cells_of(adata, model)
    whole = denoise_cells(model, source, FOLD, options=QUIET).value_ng
    for options in (QUIET.model_copy(update={"batch_size": 1}), QUIET.model_copy(update={"max_tokens": 100})):
        again = denoise_cells(model, source, FOLD, options=options).value_ng
        np.testing.assert_allclose(again, whole, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("cellwright.tasks.denoise.BLOCK_VALUES", 4 * NUM_GENES)
    starts, blocks = zip(*denoise_blocks(model, source, FOLD, options=QUIET), strict=True)
    assert starts == (0, 4, 8, 12, 16, 20)
    np.testing.assert_allclose(np.concatenate(blocks), whole, rtol=1e-4, atol=1e-5)


def test_the_depth_asked_for_matters_and_is_the_cells_own_total(model, adata):
    source = cells_of(adata, model).select(np.arange(7))
    total_n = model.tokenizer().depth_of(source.read(np.arange(7)))
    five = denoise_cells(model, source, FOLD, options=QUIET).value_ng
    ten = denoise_cells(model, source, DepthTarget.parse("a1"), options=QUIET).value_ng
    assert np.abs(five - ten).max() > 1e-4
    one = source.select(np.array([2]))
    own = DepthTarget("total", float(np.log10(5 * total_n[2])))
    np.testing.assert_allclose(denoise_cells(model, one, own, options=QUIET).value_ng[0], five[2], rtol=1e-3, atol=1e-5)


def test_some_genes_only_are_columns_of_all(model, adata):
    source = cells_of(adata, model)
    whole = denoise_cells(model, source, FOLD, options=QUIET).value_ng
    some = denoise_cells(model, source, FOLD, gene_ids=np.array([9, 2]), options=QUIET)
    assert some.genes == ("GENE0009", "GENE0002")
    np.testing.assert_allclose(some.value_ng, whole[:, [9, 2]], rtol=1e-5)
    with pytest.raises(ValueError, match="gene id 30 is none of the 30 genes"):
        denoise_cells(model, source, FOLD, gene_ids=np.array([30]), options=QUIET)


def test_a_panel_is_what_is_answered_for(adata):
    model = small_model(panel=("GENE0005", "GENE0001"), depth_from="given")
    found = denoise_cells(model, cells_of(adata, model), FOLD, options=QUIET)
    assert found.genes == ("GENE0001", "GENE0005")
    assert found.num_empty == 0  # its depth is that of all genes of the file
    assert np.array_equal(answered_ids(model), [1, 5])


def test_families_that_cannot_are_refused(adata):
    plain = small_model("scgpt")
    with pytest.raises(ValueError, match="scGPT knows no read depth"):
        denoise_cells(plain, cells_of(adata, plain), FOLD, options=QUIET)


def test_a_limit_on_tokens_is_refused_not_passed_over(model, adata):
    with pytest.raises(ValueError, match=r"max_length = 9: cells are denoised with all genes .*leave it out"):
        cellwright.denoise(adata, model, run=QUIET.model_copy(update={"max_length": 9}))


def test_genes_left_out_for_length_are_no_answer(adata):
    model = small_model(max_length=12)
    with pytest.raises(ValueError, match="left out for length"):
        denoise_cells(model, cells_of(adata, model), FOLD, options=QUIET)


def test_the_verb_fills_a_layer_and_says_what_it_is(model, adata):
    before = adata.X.copy()
    filled = adata.copy()
    found = cellwright.denoise(filled, model, depth="f5", key_added="deep", run=QUIET)
    layer_ng = filled.layers["deep"]
    assert layer_ng.shape == filled.shape
    assert np.isnan(layer_ng[:, NUM_GENES:]).all()
    np.testing.assert_array_equal(layer_ng[:, :NUM_GENES], found.value_ng)
    note = filled.uns["cellwright"]["deep"]
    assert note["depth"] == "f5"
    assert "log1p of molecules per 10,000" in note["values"]
    assert (note["num_genes"], note["num_genes_not_predicted"]) == (NUM_GENES, 10)
    assert note["model"]["sha256"] == model.sha256()
    assert (adata.X != before).nnz == 0
    some = cellwright.denoise(adata, model, depth="t4", only=["GENE0004"], run=QUIET)
    assert some.genes == ("GENE0004",)
    with pytest.raises(ValueError, match="1 of 2 genes are none of the model's: NOPE"):
        cellwright.denoise(adata, model, only=["GENE0004", "NOPE"], run=QUIET)
    with pytest.raises(ValueError, match="read depth 'five' is not understood"):
        cellwright.denoise(adata, model, depth="five", run=QUIET)


def test_thinned_cells_are_a_source_that_reads_the_same_cells_each_time(model, adata):
    source = cells_of(adata, model)
    thinned = ThinnedCells(source, 0.3, seed=2)
    whole, part = thinned.read(np.arange(len(thinned))), thinned.read(np.array([11, 3]))
    assert np.array_equal(part.value_z, whole.take(np.array([11, 3])).value_z)
    assert whole.total_n.sum() == pytest.approx(0.3 * source.read(np.arange(23)).total_n.sum(), rel=0.03)
    tokenize = model.tokenizer()
    assert np.array_equal(recounted(whole, tokenize).total_n, tokenize.depth_of(whole))
