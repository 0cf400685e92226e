"""Annotations of genes: read from var by the vocabulary's names, learnt with, and kept with the model."""

import numpy as np
import pytest

from cellwright.data import make_cells, open_cells
from cellwright.data.gene_annotations import read_gene_annotations
from cellwright.models import load
from cellwright.recipes import pretrain_model, recipe
from cellwright.types import Draw
from cellwright.vocab import GeneVocab

SHORT = ["train.max_steps=3", "model.width=16", "model.num_heads=2", "model.feed_forward=16", "batch_size=8"]
COLUMNS = ["data.gene_annotations.pathway=pathway", "data.gene_annotations.region=band"]


def annotated_cells(num_genes=40):
    adata = make_cells(40, num_genes, seed=1)
    adata.var["pathway"] = [("wnt", "tcr", None, np.nan)[i % 4] for i in range(num_genes)]
    adata.var["band"] = [f"chr{i % 3}" for i in range(num_genes)]
    return adata


def test_columns_become_tables_of_the_vocabularys_genes():
    adata = annotated_cells(8)
    names = list(adata.var_names)
    vocab = GeneVocab.from_genes([*names[2:6], "ELSEWHERE"], {"pad": "<pad>"})
    tables = read_gene_annotations([adata], {"pathway": "pathway"}, vocab)
    assert tables == {"pathway": {names[4]: "wnt", names[5]: "tcr"}}
    assert read_gene_annotations([adata, adata], {"a": "pathway"}, vocab) == {"a": tables["pathway"]}


def test_mistakes_are_one_clear_line():
    adata = annotated_cells(8)
    vocab = GeneVocab.from_genes(list(adata.var_names), {"pad": "<pad>"})
    with pytest.raises(ValueError, match=r"no data set has a column 'pathwy' of var .*did you mean 'pathway'"):
        read_gene_annotations([adata], {"p": "pathwy"}, vocab)
    other = annotated_cells(8)
    other.var["pathway"] = "wnt"
    with pytest.raises(ValueError, match=f"says 'wnt' of {adata.var_names[1]}, of which 'tcr' was said before"):
        read_gene_annotations([adata, other], {"p": "pathway"}, vocab)
    other.var["pathway"] = None
    with pytest.raises(ValueError, match="says nothing of any gene"):
        read_gene_annotations([other], {"p": "pathway"}, vocab)


def test_a_model_is_taught_with_them_and_keeps_them(tmp_path):
    adata = annotated_cells()
    chosen = recipe("scgpt_tiny").override([*SHORT, *COLUMNS])
    model, _ = pretrain_model(chosen, [adata], tmp_path / "run")
    assert (model.config.num_conditions, model.config.more_conditions) == (3, (4,))
    again = load(tmp_path / "run")
    assert list(again.inputs.conditions) == ["pathway", "region"]
    assert again.inputs.conditions["pathway"][adata.var_names[1]] == "tcr"
    cells = open_cells(adata, again.vocab).read(np.arange(4))
    tokens = again.tokenizer()(cells, Draw())
    flags = dict(zip(tokens.gene_nt[0].tolist(), tokens.flag_nt[0].tolist(), strict=True))
    genes = {again.vocab.tokens[i]: flag for i, flag in flags.items() if again.vocab.tokens[i] in adata.var_names}
    assert {gene: flag[0] for gene, flag in genes.items()} == {
        gene: {"wnt": 2, "tcr": 1}.get(adata.var["pathway"][gene], 0) for gene in genes
    }
    weight = again.network.condition.weight
    assert (weight[0] == 0).all()
    fresh = model.fresh(chosen.train.seed).network.condition.weight
    assert (weight[1:] - fresh[1:]).abs().amax(1).min() > 0  # both categories were learnt from


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("scfoundation_tiny", [], "ScFoundationConfig takes no conditions of genes"),
        ("scgpt_tiny", ["model.num_conditions=3"], "leave them out"),
    ],
)
def test_annotations_that_cannot_be_used_are_refused(name, changes, words, tmp_path):
    chosen = recipe(name).override([*COLUMNS[:1], *changes])
    with pytest.raises(ValueError, match=words):
        pretrain_model(chosen, [annotated_cells()], tmp_path / "run")
    assert not (tmp_path / "run").exists()
