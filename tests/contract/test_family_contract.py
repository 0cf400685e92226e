"""What every family promises; a new entry of FAMILIES is covered at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cellwright.models import FAMILIES, load, new_model
from cellwright.types import CellBatch, Draw
from cellwright.vocab import GeneVocab

NUM_GENES = 60


def make_cells(seed: int = 0, num_cells: int = 5) -> CellBatch:
    rng = np.random.default_rng(seed)
    length_n = rng.integers(5, 30, num_cells)
    genes = [np.sort(rng.choice(NUM_GENES, length, replace=False)) for length in length_n]
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum(length_n)]),
        gene_z=np.concatenate(genes).astype(np.int32),
        value_z=rng.integers(1, 40, length_n.sum()).astype(np.float32),
        row_n=np.arange(num_cells),
        total_n=np.full(num_cells, 100.0),
    )


@pytest.fixture(params=FAMILIES)
def model(request):
    family = FAMILIES[request.param]
    vocab = GeneVocab.from_genes([f"G{i}" for i in range(NUM_GENES)], family.specials)
    return new_model(request.param, vocab, family.sizes["tiny"], seed=1)


def run(model, tokens, outputs=None):
    with torch.inference_mode():
        return model.network.eval()(tokens, outputs)


def test_hidden_values_do_not_leak(model):
    cells = make_cells()
    other = replace(cells, value_z=cells.value_z.copy())
    tokens = model.tokenizer()(cells, Draw())
    at_nt = torch.zeros_like(tokens.is_hidden_nt)
    at_nt[0, 3::4] = True
    changed = replace(tokens, value_nt=torch.where(at_nt, tokens.value_nt + 7, tokens.value_nt))
    a, b = run(model, tokens.hide(at_nt)), run(model, changed.hide(at_nt))
    torch.testing.assert_close(a.cell_nd, b.cell_nd, rtol=0, atol=0)
    assert (other.value_z == cells.value_z).all()


def test_packed_equals_padded_and_pads_are_inert(model):
    tokens = model.tokenizer()(make_cells(), Draw()).packed()
    padded = tokens.padded(model.vocab.special_id("pad"))
    filled = replace(padded, gene_nt=torch.where(padded.layout.is_pad_nt(), 3, padded.gene_nt))
    want = run(model, tokens)
    for other in (padded, filled):
        got = run(model, other)
        torch.testing.assert_close(got.cell_nd, want.cell_nd, atol=1e-5, rtol=1e-4)
        for field in model.network.produces:
            ours, theirs = other.layout.pack(getattr(got, field)), getattr(want, field)
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_batch_of_one_equals_a_row_of_many(model):
    cells, tokenize = make_cells(), model.tokenizer()
    together = run(model, tokenize(cells, Draw())).cell_nd
    alone = torch.cat([run(model, tokenize(cells.take(np.array([i])), Draw())).cell_nd for i in range(len(cells))])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)


def test_produces_is_honest(model):
    tokens = model.tokenizer()(make_cells(), Draw())
    out = run(model, tokens)
    optional = {"value_nt", "expressed_nt", "cell_value_nt", "cell_expressed_nt"}
    assert {f for f in optional if getattr(out, f) is not None} == set(model.network.produces)
    for field in model.network.produces:
        only = run(model, tokens, {field})
        torch.testing.assert_close(getattr(only, field), getattr(out, field), rtol=0, atol=0)
    assert out.cell_nd.shape == (5, model.network.width)


def test_save_and_load(model, tmp_path):
    tokens = model.tokenizer()(make_cells(), Draw())
    want = run(model, tokens)
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.sha256() == model.sha256()
    assert again.vocab == model.vocab
    assert again.inputs == model.inputs
    torch.testing.assert_close(
        run(again, again.tokenizer()(make_cells(), Draw())).cell_nd, want.cell_nd, rtol=0, atol=0
    )


def test_published_format_round_trip(model, tmp_path):
    model.release(tmp_path / "published")
    again = load(tmp_path / "published")
    assert again.report.kind == "released"
    ours, theirs = model.network.state_dict(), again.network.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_fresh_weights_differ_by_seed_only(model):
    a, b, c = model.fresh(3), model.fresh(3), model.fresh(4)
    assert a.sha256() == b.sha256() != c.sha256()
    assert a.config == model.config


def test_frozen_parts_get_no_gradient_and_the_rest_do(model):
    tokens = model.tokenizer()(make_cells(), Draw())
    network = model.network.train()
    network.gene_encoder.requires_grad_(False)
    out = network(tokens)
    sum(getattr(out, f).float().mean() for f in network.produces).backward()
    assert all(p.grad is None for p in network.gene_encoder.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.blocks.parameters())


def test_one_batch_can_be_memorised(model):
    cells, network = make_cells(), model.network.train()
    tokens = model.tokenizer()(cells, Draw())
    at_nt = torch.rand(tokens.value_nt.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    seen, value_nt = tokens.hide(at_nt), tokens.value_nt
    field = sorted(network.produces & {"value_nt", "cell_value_nt"})[-1]
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(150):
        loss = (getattr(network(seen, {field}), field)[at_nt] - value_nt[at_nt]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0], losses[::30]


def test_a_family_is_described(model):
    family = model.family
    assert {"tiny", "small", "released"} <= set(family.sizes)
    for text in (family.title, family.citation, family.weights_terms):
        assert text
    assert set(family.accepts) <= {"raw", "normalised", "log1p", "binned", "unknown"}
