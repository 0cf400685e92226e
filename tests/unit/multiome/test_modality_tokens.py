"""Tokens of several modalities: ids, values coded apart, and views that withhold a modality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cellwright.models import FAMILIES, new_model
from cellwright.models.inputs import InputConfig
from cellwright.objectives.modalities import ModalityMask
from cellwright.tokens import bin_ragged
from cellwright.tokens.modalities import ModalitySpec, code_by_modality
from cellwright.types import CellBatch, Draw
from cellwright.vocab import GeneVocab, modality_of

MODALITIES = ("peak", "protein", "rna")
NEW = ("protein:A", "protein:B", "protein:C", "peak:chr1:1-9", "peak:chr2:1-9")


def vocab():
    genes = GeneVocab.from_genes([f"G{i}" for i in range(20)], FAMILIES["scgpt"].specials)
    return genes.extended(NEW)


def cells(num=6, seed=0):
    """Cells of genes 0 .. 19, the proteins and peaks behind them; the last cell has genes only."""
    rng, ids = np.random.default_rng(seed), vocab().ids(NEW)
    rows = []
    for n in range(num):
        gene = np.sort(rng.permutation(20)[:12])
        rows.append(np.concatenate([gene, ids[: 5 if n < num - 1 else 0]]))
    gene_z = np.concatenate(rows)
    value_z = rng.integers(1, 9, len(gene_z)).astype(np.float32)
    is_protein_z = np.isin(gene_z, ids[:3])
    value_z[is_protein_z] = rng.integers(100, 5000, is_protein_z.sum())
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum([len(row) for row in rows])]),
        gene_z=gene_z.astype(np.int32),
        value_z=value_z,
        row_n=np.arange(num),
        total_n=np.full(num, 100.0),
    )


def model(**inputs):
    config = (
        FAMILIES["scgpt"].sizes["tiny"].override(["num_modalities=5", "modality_pad=3", "is_gene_conditioned=true"])
    )
    return new_model("scgpt", vocab(), config, inputs=InputConfig(modalities=MODALITIES, **inputs))


@pytest.mark.parametrize(
    ("token", "modality"),
    [("CD4", "rna"), ("protein:CD4", "protein"), ("peak:chr1:5-9", "peak"), ("protein:", "rna"), ("HLA:A", "rna")],
)
def test_the_name_of_a_token_says_its_modality(token, modality):
    assert modality_of(token) == modality


def test_each_modality_is_binned_by_itself():
    batch, words = cells(), vocab()
    spec = ModalitySpec.of_vocab(words, MODALITIES, special_ids={}, num_bins=51)
    coded = code_by_modality(batch, spec, Draw())
    protein_ids = words.ids(NEW[:3])
    for n in range(len(batch)):
        own = slice(batch.indptr_n1[n], batch.indptr_n1[n + 1])
        gene_z, value_z = batch.gene_z[own], batch.value_z[own]
        for is_it_z in (gene_z < 20, np.isin(gene_z, protein_ids)):
            alone_z = bin_ragged(value_z[is_it_z], np.array([0, is_it_z.sum()]), 51)
            assert np.array_equal(coded.value_z[own][is_it_z], alone_z)


def test_genes_are_coded_alike_whether_or_not_proteins_were_measured():
    batch, words = cells(), vocab()
    spec = ModalitySpec.of_vocab(words, MODALITIES, special_ids={}, num_bins=51, ties="random")
    genes_only = np.arange(20)
    whole, some = code_by_modality(batch, spec, Draw(3)), code_by_modality(batch, spec, Draw(3), genes_only)
    assert np.array_equal(whole.value_z[whole.gene_z < 20], some.value_z)


def test_an_unbinned_modality_keeps_its_values():
    batch, words = cells(), vocab()
    spec = ModalitySpec.of_vocab(words, MODALITIES, special_ids={}, num_bins=51, unbinned=("protein",))
    coded = code_by_modality(batch, spec, Draw())
    is_protein_z = np.isin(batch.gene_z, words.ids(NEW[:3]))
    assert np.allclose(coded.value_z[is_protein_z], batch.value_z[is_protein_z] * 10)
    assert coded.value_z[~is_protein_z].max() <= 50


def test_the_tokeniser_tells_modalities_and_the_network_reads_them():
    made = model()
    tokens = made.tokenizer()(cells(), Draw())
    modality_of_token = dict(zip(tokens.gene_nt[0].tolist(), tokens.modality_nt[0].tolist(), strict=True))
    words = made.vocab
    assert modality_of_token[words.special_id("cls")] == 4
    assert [modality_of_token[i] for i in words.ids(["G3", "protein:A", "peak:chr1:1-9"])] == [2, 1, 0]
    out = made.network.eval()(tokens)
    assert torch.isfinite(out.value_nt).all()
    other = made.network(replace(tokens, modality_nt=torch.full_like(tokens.modality_nt, 2)))
    assert not torch.allclose(out.value_nt, other.value_nt)
    assert torch.equal(out.cell_nd, other.cell_nd)  # modality is told to the heads only, as published


def test_padded_tokens_carry_the_pad_modality():
    made = model()
    tokenize = made.family.tokenizer(made.config, made.vocab, made.inputs, is_packed=False)
    tokens = tokenize(cells(), Draw())
    is_pad_nt = tokens.layout.is_pad_nt()
    assert is_pad_nt.any()
    assert set(tokens.modality_nt[is_pad_nt].tolist()) == {3}


def test_without_named_modalities_the_tokeniser_is_the_plain_one():
    config = FAMILIES["scgpt"].sizes["tiny"]
    plain = new_model("scgpt", vocab(), config).tokenizer()(cells(), Draw())
    assert plain.modality_nt is None
    apart = new_model("scgpt", vocab(), config, inputs=InputConfig(modalities=MODALITIES)).tokenizer()(cells(), Draw())
    assert apart.modality_nt is None
    assert torch.equal(plain.gene_nt, apart.gene_nt)
    assert not torch.equal(plain.value_nt, apart.value_nt)  # genes and proteins are binned apart


def test_modalities_that_do_not_fit_are_refused():
    config = FAMILIES["scgpt"].sizes["tiny"].override(["num_modalities=2"])
    made = new_model("scgpt", vocab(), config, inputs=InputConfig(modalities=MODALITIES))
    with pytest.raises(ValueError, match=r"3 modalities, <pad> and <cls> need more than the 2 ids"):
        made.tokenizer()
    with pytest.raises(ValueError, match="a value is of a modality that this model was not made for"):
        model().with_inputs(modalities=["protein", "rna"]).tokenizer()(cells(), Draw())
    with pytest.raises(ValueError, match="no modality 'adt' to leave unbinned"):
        model(unbinned=("adt",)).tokenizer()


def test_a_modality_is_withheld_whole_in_part_of_the_cells():
    made, batch = model(), cells(60)
    view = ModalityMask(whole=(1,), whole_fraction=0.5)
    tokens, targets = view(batch, made.tokenizer(), Draw(1))
    cell_t = tokens.layout.cell_of_token()
    is_protein_t, is_hidden_t = tokens.modality_nt[0] == 1, tokens.is_hidden_nt[0]
    num_whole = 0
    for n in range(len(batch) - 1):
        own_t = cell_t == n
        if bool(is_hidden_t[own_t & is_protein_t].all()) and not bool(is_hidden_t[own_t & ~is_protein_t].any()):
            num_whole += 1
        else:
            assert int(is_hidden_t[own_t].sum()) == int(0.4 * int(own_t.sum()))
    assert 15 < num_whole < 45
    assert torch.equal(targets.is_scored_nt, tokens.is_hidden_nt)
    assert int(is_hidden_t[cell_t == len(batch) - 1].sum()) == int(0.4 * 13)  # the cell without proteins
    again, _ = view(batch, made.tokenizer(), Draw(1))
    assert torch.equal(again.is_hidden_nt, tokens.is_hidden_nt)


def test_withholding_needs_tokens_that_tell_their_modality():
    plain = new_model("scgpt", vocab(), FAMILIES["scgpt"].sizes["tiny"])
    with pytest.raises(ValueError, match="do not say which modality"):
        ModalityMask(whole=(1,))(cells(), plain.tokenizer(), Draw())
