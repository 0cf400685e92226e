"""Giving a trained network further parts and words: what it knew stays, and what is new is named."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cellwright.models import FAMILIES, load, new_model
from cellwright.types import CellBatch, Draw
from cellwright.vocab import GeneVocab

GENES = [f"G{i:02}" for i in range(24)]
WORDS = {"organ": ["Lung", "Liver"], "coarse_type": ["T", "B"], "cell_type": ["T1", "T2", "B"]}


def model(family="scgpt", seed=0, **changes):
    chosen = FAMILIES[family]
    vocab = GeneVocab.from_genes(GENES, chosen.specials, WORDS if chosen.categories else None)
    config = chosen.config.read(chosen.sizes["tiny"].record() | changes, "model")
    made = new_model(family, vocab, config, seed=seed)
    made.network.eval()
    return made


def cells(num=5, seed=3):
    rng = np.random.default_rng(seed)
    genes = [np.sort(rng.choice(len(GENES), 9, replace=False)) for _ in range(num)]
    return CellBatch(
        indptr_n1=np.arange(num + 1) * 9,
        gene_z=np.concatenate(genes).astype(np.int32),
        value_z=rng.integers(1, 9, 9 * num).astype(np.float32),
        row_n=np.arange(num),
        total_n=np.full(num, 60.0),
        obs={"tech_batch": np.arange(num) % 2},
    )


def answers(made):
    tokens = made.tokenizer()(cells(), Draw())
    with torch.no_grad():
        return made.network(tokens)


def test_growing_changes_nothing_that_was_known():
    trained = model("scmulan")
    more = trained.vocab.extended(["G24"], {"cell_type": ["NK"], "age": ["old"]})
    before = {k: v.clone() for k, v in trained.network.state_dict().items()}
    found = trained.adapted(vocab=more, seed=3)
    larger = found.model
    assert all(torch.equal(before[k], v) for k, v in trained.network.state_dict().items())
    assert len(larger.vocab) == len(trained.vocab) + 3
    assert set(found.grown) == {"gene_encoder.weight", "entity_head.weight", "level_head.weight"}
    assert not found.fresh
    assert not found.dropped
    old, new = answers(trained), answers(larger)
    torch.testing.assert_close(new.hidden_ntd, old.hidden_ntd, rtol=0, atol=0)
    for field in ("entity", "level"):
        known, grown = (getattr(out, field).dense() for out in (old, new))
        torch.testing.assert_close(grown[..., : len(trained.vocab)], known)
        like = [trained.vocab.id(word) for word in trained.vocab.categories["cell_type"]]
        torch.testing.assert_close(grown[..., larger.vocab.id("NK")], known[..., like].mean(-1), atol=1e-4, rtol=1e-4)
    assert trained.adapted(vocab=more, seed=3).model.sha256() == larger.sha256()
    assert trained.adapted(vocab=more, seed=4).model.sha256() != larger.sha256()


def test_parts_that_grow_say_what_they_said():
    trained = model()
    found = trained.adapted({"num_tech_batches": 2, "num_modalities": 3, "is_gene_conditioned": True}, seed=1)
    assert {"value_head.net.0.weight", "cell_value_head.project.weight"} <= set(found.grown)
    assert {name.split(".")[0] for name in found.fresh} == {"tech_batch", "modality"}
    assert set(found.unlearnt) == {*found.grown, *found.fresh}
    tokens = found.model.tokenizer()(cells(), Draw())
    tokens = replace(tokens, modality_nt=torch.zeros_like(tokens.gene_nt))
    with torch.no_grad():
        new = found.model.network(tokens)
    old = answers(trained)
    torch.testing.assert_close(new.value_nt, old.value_nt)
    torch.testing.assert_close(new.cell_value_nt, old.cell_value_nt)


def test_parts_that_are_exchanged_are_fresh():
    trained = model()
    found = trained.adapted({"value_head": "affine", "num_conditions": 3, "condition_pad": 0}, seed=1)
    assert {name.split(".")[0] for name in found.fresh} == {"value_head", "condition"}
    assert {name.split(".")[0] for name in found.dropped} == {"value_head"}
    assert not found.grown
    before, after = trained.network.state_dict(), found.model.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in found.kept)
    assert found.model.origin["adapted"]["from_sha256"] == trained.sha256()


def test_what_is_to_be_redrawn_is_redrawn():
    trained = model()
    found = trained.adapted(redraw=["value_head"], seed=1)
    assert found.fresh
    assert all(name.startswith("value_head.") for name in found.fresh)
    torch.testing.assert_close(answers(found.model).cell_nd, answers(trained).cell_nd, rtol=0, atol=0)
    assert not torch.equal(answers(found.model).value_nt, answers(trained).value_nt)


def test_what_does_not_fit_is_refused():
    made = model("scmulan")
    specials = FAMILIES["scmulan"].specials
    with pytest.raises(ValueError, match="must begin with all tokens of the old one"):
        made.adapted(vocab=GeneVocab.from_genes(GENES[::-1], specials))
    with pytest.raises(ValueError, match="other special tokens"):
        made.adapted(vocab=GeneVocab(made.vocab.tokens, {"end": "<E>"}, made.vocab.categories))
    with pytest.raises(ValueError, match="nothing in the network is called 'head'"):
        made.adapted(redraw=["head"])
    with pytest.raises(ValueError, match="num_tech_batch"):
        model().adapted({"num_tech_batch": 2})
    with pytest.raises(ValueError, match="redrawn"):
        model(num_tech_batches=3).adapted({"num_tech_batches": 2})


def test_an_adapted_model_can_be_frozen_saved_and_released(tmp_path):
    made = model("scmulan")
    made.network.level_encoder.requires_grad_(False)
    larger = made.adapted(vocab=made.vocab.extended(categories={"organ": ["Brain"]})).model
    flags = ([p.requires_grad for p in m.network.parameters()] for m in (larger, made))
    assert next(flags) == next(flags)
    larger.save(tmp_path / "m")
    assert load(tmp_path / "m").vocab.categories["organ"] == ("Lung", "Liver", "Brain")
    larger.release(tmp_path / "published")
    assert load(tmp_path / "published").vocab.categories["organ"] == ("Lung", "Liver", "Brain")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_what_it_knew(family):
    trained = model(family)
    found = trained.adapted()
    assert found.unlearnt == found.dropped == ()
    assert found.model.sha256() == trained.sha256()
    assert found.model.network is not trained.network
