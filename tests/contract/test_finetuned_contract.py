"""What a fine-tuned model of every family keeps: labels, vocabulary, preparation of cells; it reads files of others."""

import json

import numpy as np
import pytest
from cli.command_line import gene_names, in_ensembl, made_up_cells, write

import cellwright
from cellwright.models import FAMILIES, InputConfig, new_model
from cellwright.vocab import GeneVocab

QUIET = cellwright.InferenceOptions(progress=False, device="cpu")
CHANGES = ["train.accelerator=cpu", "train.max_epochs=2", "batch_size=8", "optim.lr=0.005", "num_layers=1"]
PANEL = 50
"""Genes that the models are fed; the vocabulary has ten more."""


@pytest.fixture(scope="module")
def cells():
    return made_up_cells(40)


@pytest.fixture(scope="module")
def query():
    """Other cells, of genes in another order."""
    adata = made_up_cells(12, seed=9)
    return adata[:, np.random.default_rng(2).permutation(adata.n_vars)].copy()


@pytest.fixture(scope="module", params=FAMILIES)
def tuned(request, cells, tmp_path_factory):
    """A fine-tuned model of a family, as it came out of training; its folder is ``tuned.folder``."""
    family = FAMILIES[request.param]
    vocab = GeneVocab.from_genes(gene_names(), family.specials)
    inputs = InputConfig(panel=tuple(gene_names()[:PANEL]))
    model = new_model(request.param, vocab, family.sizes["tiny"], seed=1, inputs=inputs)
    folder = tmp_path_factory.mktemp("tuned") / "run"
    changes = [*CHANGES, "class_weight=balanced"]
    return cellwright.finetune(cells, model, label="cell_type", out=folder, changes=changes, run=QUIET)


def probabilities(data, model):
    return cellwright.annotate(data, model, run=QUIET).prob_nk


def test_all_that_predicting_needs_is_in_the_folder(tuned):
    again = cellwright.load(tuned.folder)
    assert again.sha256() == tuned.model.sha256()
    assert again.classes == {"label": ("type 0", "type 1")}
    assert again.config == tuned.model.config
    assert again.inputs == tuned.model.inputs
    assert again.inputs.panel == tuple(gene_names()[:PANEL])
    assert again.inputs.cls_value == 0.0  # what fine-tuning changed in the preparation of cells
    assert again.vocab.sha256 == tuned.model.vocab.sha256
    recipe = json.loads((tuned.folder / "recipe.json").read_text())
    assert recipe["class_weight"] == "balanced"
    assert recipe["label"] == "cell_type"


def test_a_reloaded_model_says_the_same_and_can_tell_types(tuned, query):
    prob_nk = probabilities(query, tuned.folder)
    assert np.array_equal(prob_nk, probabilities(query, tuned.model))
    assert np.ptp(prob_nk, axis=0).max() > 1e-3  # cells are told apart, so that what follows is not empty


def test_order_and_naming_of_genes_do_not_matter(tuned, query, tmp_path):
    prob_nk = probabilities(query, tuned.folder)
    shuffled = query[:, np.random.default_rng(8).permutation(query.n_vars)].copy()
    assert np.allclose(probabilities(shuffled, tuned.folder), prob_nk, atol=1e-6)
    path = write(in_ensembl(query), tmp_path / "ensembl.h5ad")
    assert np.allclose(probabilities(path, tuned.folder), prob_nk, atol=1e-6)


def test_missing_genes_are_silent_genes(tuned, query):
    """A file without some genes is answered as one in which they are 0, and the contract counts them."""
    lacking = gene_names()[5:25]
    kept = query[:, ~query.var_names.isin(lacking)].copy()
    silent = query.copy()
    silent.X = silent.X.toarray()
    silent.X[:, silent.var_names.isin(lacking)] = 0
    prob_nk = probabilities(kept, tuned.folder)
    assert np.allclose(prob_nk, probabilities(silent, tuned.folder), atol=1e-6)
    assert np.abs(prob_nk - probabilities(query, tuned.folder)).max() > 1e-4  # and they had a say
    source = cellwright.verbs.open_data(kept, cellwright.load(tuned.folder))
    assert len(source.contract.genes.matched_ids) == 40


def test_genes_that_the_model_is_not_fed_have_no_say(tuned, query):
    """Foreign genes, and those of the vocabulary that are outside the panel."""
    strange = query.copy()
    strange.var_names = [f"unheard of {name}" if name in gene_names()[PANEL:] else name for name in strange.var_names]
    outside = query[:, query.var_names.isin(gene_names()[:PANEL])].copy()
    assert strange.n_vars == query.n_vars
    assert outside.n_vars == PANEL
    found = [cellwright.annotate(adata, tuned.folder, run=QUIET) for adata in (strange, outside, query)]
    assert all(one.classes == ("type 0", "type 1") for one in found)
    is_told_by_genes = tuned.model.family.name != "scfoundation"  # depth counts the molecules of the whole vocabulary
    if is_told_by_genes:
        assert np.allclose(found[0].prob_nk, found[2].prob_nk, atol=1e-6)
    assert np.isfinite(found[1].prob_nk).all()


def test_it_can_be_fine_tuned_again_for_other_labels(tuned, cells, tmp_path):
    other = cells.copy()
    other.obs["side"] = np.where(np.arange(other.n_obs) % 4 < 2, "left", "right")
    again = cellwright.finetune(
        other, tuned.folder, label="side", out=tmp_path / "run", changes=[*CHANGES, "mode=probe"], run=QUIET
    )
    assert cellwright.load(tmp_path / "run").classes == {"label": ("left", "right")}
    assert again.fit.num_trained < again.fit.num_parameters
