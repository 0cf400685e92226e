"""Predicting values from the cell: every style, with and without zero gates and sequencing batches, end to end."""

import numpy as np
import pytest
import torch

from cellwright.models import InputConfig, load, new_model
from cellwright.models.scgpt import ScGPTConfig
from cellwright.objectives import Objective
from cellwright.objectives.value import CellValue, CellZeroGate
from cellwright.objectives.views import RandomMask
from cellwright.types import CellBatch, Draw
from cellwright.vocab import GeneVocab

VOCAB = GeneVocab.from_genes([f"G{i}" for i in range(20)], {"pad": "<pad>", "cls": "<cls>", "eoc": "<eoc>"})
STYLES = ["inner product", "inner product, detach", "concat query", "sum query"]


def cells():
    rng = np.random.default_rng(0)
    gene_z = np.concatenate([np.sort(rng.permutation(20)[:12]) for _ in range(4)]).astype(np.int32)
    return CellBatch(
        indptr_n1=np.arange(5) * 12,
        gene_z=gene_z,
        value_z=rng.integers(1, 30, 48).astype(np.float32),
        row_n=np.arange(4),
        total_n=np.full(4, 100.0),
        obs={"tech_batch": np.array([0, 1, 0, 1])},
    )


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("has_gate", [False, True])
@pytest.mark.parametrize("num_tech_batches", [0, 2])
def test_every_style_trains_and_is_written_back(style, has_gate, num_tech_batches, tmp_path):
    config = ScGPTConfig(
        width=16, num_heads=2, num_layers=1, feed_forward=16, dropout=0.0, cell_value_style=style,
        has_zero_gate=has_gate, num_tech_batches=num_tech_batches,
    )  # fmt: skip
    model = new_model("scgpt", VOCAB, config, inputs=InputConfig())
    terms = {"value": (1.0, CellValue())} | ({"gate": (1.0, CellZeroGate())} if has_gate else {})
    objective = Objective(RandomMask(), terms)
    objective.check(model.network)
    report = objective.step(model.network.train(), cells(), tokenize=model.tokenizer(), draw=Draw(1))
    report.loss.backward()
    head = model.network.cell_value_head
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())
    model.network.eval()
    tokens = model.tokenizer()(cells(), Draw())
    model.save(tmp_path / "own")
    model.release(tmp_path / "out")
    with torch.no_grad():
        wanted = model.network(tokens)
        assert (wanted.cell_expressed_nt is not None) == has_gate
        for folder in ("own", "out"):
            again = load(tmp_path / folder)
            assert again.config.cell_value_style == (style if folder == "own" else style.removesuffix(", detach"))
            assert torch.equal(again.network(tokens).cell_value_nt, wanted.cell_value_nt)


def test_a_detached_query_gives_genes_no_gradient_through_it():
    grads = {}
    for style in STYLES[:2]:
        config = ScGPTConfig(width=16, num_heads=2, num_layers=1, feed_forward=16, dropout=0.0, cell_value_style=style)
        model = new_model("scgpt", VOCAB, config, seed=3)
        tokens = model.tokenizer()(cells(), Draw())
        gene_ntd = model.network.gene_encoder(tokens.gene_nt).detach().requires_grad_()
        value_nt, _ = model.network.cell_value_head(torch.ones(4, 16), gene_ntd, tokens.layout)
        value_nt.sum().backward()
        grads[style] = gene_ntd.grad
    assert grads["inner product"].abs().max() > 0
    assert grads["inner product, detach"] is None
