"""Sentences equal the published ones word for word, on recorded log-normalised matrices and on the counts before."""

import numpy as np
import pytest
import torch
from parity.cases import Case
from parity.sentences import recorded_cells

from cellwright.models import load
from cellwright.types import Draw


@pytest.mark.parametrize("name", ["pipeline_tiny", "pipeline_realvocab"])
@pytest.mark.parametrize("field", ["X_norm", "counts"])
def test_prompts(name, field):
    case = Case("scmulan", name)
    model = load(case.folder)
    cells = recorded_cells(case, model.vocab, field)
    tokens = model.tokenizer()(cells, Draw())
    entities, levels = (x[0].split(tokens.layout.lengths) for x in (tokens.gene_nt, tokens.value_nt))
    for i, (entity_t, level_t) in enumerate(zip(entities, levels, strict=True)):
        assert torch.equal(entity_t, case[f"cell{i}/prompt_ids"])
        assert torch.equal(level_t.long(), case[f"cell{i}/prompt_vals"])
    assert len(cells) == i + 1


def test_a_single_expressed_gene_has_the_highest_level():
    case = Case("scmulan", "pipeline_tiny")
    tokens = load(case.folder).tokenizer()(recorded_cells(case, load(case.folder).vocab, "counts"), Draw())
    assert tokens.layout.lengths[0] == 2
    assert tokens.value_nt[0, :2].tolist() == [10, 0]


def test_the_published_vocabulary():
    vocab = load(Case("scmulan", "pipeline_realvocab").folder).vocab
    sizes = {name: len(words) for name, words in vocab.categories.items()}
    assert sizes == {
        "organ": 7, "region": 39, "cell_type": 109, "coarse_type": 29, "age": 34, "status": 7, "tech": 10, "sex": 3,
    }  # fmt: skip
    assert len(vocab.genes) == 2000
    assert vocab.ids(vocab.genes).tolist() == list(range(1, 2001))
    assert vocab.category_ids("organ").tolist() == list(range(2001, 2008))
    assert (np.diff(vocab.category_ids("cell_type")) > 0).all()
    assert vocab.special_id("end") == vocab.special_id("pad") == 0
    assert [vocab.special_id(role) for role in ("annotate", "generate", "place")] == [2206, 2207, 2209]
    assert vocab.id("Unclassified") == 2010
    assert sum("Unclassified" in words for words in vocab.categories.values()) == 6
    assert vocab.codes("organ", ["Heart", "Kidney", None, float("nan"), "Lung"]).tolist() == [6, -1, -1, -1, 0]
