"""Genes that find no room: the count agrees with the tokens that are made, gene by gene."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellwright.models import FAMILIES, new_model
from cellwright.tasks.left_out import EXPRESSED, FED, count_left_out
from cellwright.types import CellBatch, Draw, GeneFlags
from cellwright.vocab import GeneVocab

GENES = [f"G{i}" for i in range(40)]
WAYS = [
    ("scgpt", {}),
    ("scgpt", {"panel": tuple(GENES[5:25])}),
    ("scgpt", {"panel": tuple(GENES[5:25]), "genes": "panel"}),
    ("scmulan", {}),
    ("scmulan", {"panel": tuple(GENES[5:25])}),
    ("scfoundation", {}),
    ("scfoundation", {"genes": "panel"}),
]
MODELS = {
    name: new_model(name, GeneVocab.from_genes(GENES, family.specials), family.sizes["tiny"])
    for name, family in FAMILIES.items()
}


class Source:
    def __init__(self, cells, vocab):
        self.cells, self.vocab, self.state = cells, vocab, "raw"

    def __len__(self):
        return len(self.cells)

    def read(self, rows):
        return self.cells.take(np.asarray(rows))


def cells_of(lengths, seed):
    """Cells with so many stored genes, about a tenth of them stored zeros; the first is never 0."""
    rng = np.random.default_rng(seed)
    value = [np.where(rng.random(length) < 0.1, 0, rng.integers(1, 9, length)) for length in lengths]
    for row in value:
        row[:1] = 3
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum(lengths)]),
        gene_z=np.concatenate([np.sort(rng.permutation(len(GENES))[:length]) for length in lengths]).astype(np.int32),
        value_z=np.concatenate(value).astype(np.float32),
        row_n=np.arange(len(lengths)) + 100,
        total_n=np.full(len(lengths), 1000.0),
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, len(GENES)), min_size=1, max_size=6),
    max_length=st.integers(4, 30),
    way=st.sampled_from(WAYS),
    seed=st.integers(0, 2**20),
)
def test_the_count_is_that_of_the_tokens(lengths, max_length, way, seed):
    family, inputs = way
    model, cells = MODELS[family], cells_of(lengths, seed)
    tokenize = model.tokenizer(max_length=max_length, **inputs)
    is_gene_v = np.isin(np.arange(len(model.vocab)), model.vocab.ids(model.vocab.genes))
    fed = set(model.vocab.ids(inputs.get("panel", GENES)).tolist())

    had, lost = [], []
    for i in range(len(cells)):  # the naive way: make the tokens of every cell and see which of its genes are there
        own = slice(cells.indptr_n1[i], cells.indptr_n1[i + 1])
        wanted = set(cells.gene_z[own][cells.value_z[own] > 0].tolist()) & fed
        wanted = fed if inputs.get("genes") == "panel" else wanted
        made = tokenize(cells.take(np.array([i])), Draw(seed)).packed().gene_nt[0].numpy()
        assert set(made[is_gene_v[made]].tolist()) <= wanted
        had.append(len(wanted))
        lost.append(len(wanted) - int(is_gene_v[made].sum()))

    assert tokenize.num_candidates_n(cells).tolist() == had
    assert np.maximum(tokenize.num_candidates_n(cells) - tokenize.room, 0).tolist() == lost
    found = count_left_out(tokenize, Source(cells, model.vocab), seed=seed)
    if not any(lost):
        assert found is None
        return
    assert (found.num_cells, found.num_long, found.seed) == (len(cells), sum(n > 0 for n in lost), seed)
    assert found.share == pytest.approx(np.mean([n / of for n, of in zip(lost, had, strict=True) if n]))
    assert found.what == (FED if inputs.get("genes") == "panel" else EXPRESSED)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5), seed=st.integers(0, 2**20), most=st.integers(5, 22)
)
def test_flagged_genes_take_room_silent_or_not(lengths, seed, most):
    config = FAMILIES["scgpt"].sizes["tiny"].override(["num_conditions=2", "condition_pad=0"])
    model = new_model("scgpt", MODELS["scgpt"].vocab, config)
    cells = cells_of(lengths, seed)
    rng = np.random.default_rng(seed)
    flagged = [rng.permutation(len(GENES))[: rng.integers(0, 4)].tolist() for _ in lengths]
    cells = CellBatch(
        **{name: getattr(cells, name) for name in ("indptr_n1", "gene_z", "value_z", "row_n", "total_n")},
        flags={"perturbed": GeneFlags.of(flagged)},
    )
    tokenize = model.tokenizer(max_length=most)
    length_n = np.array(tokenize(cells, Draw(seed)).layout.lengths)
    assert (np.minimum(tokenize.num_candidates_n(cells), tokenize.room) + 1).tolist() == length_n.tolist()
    whole = model.tokenizer(max_length=len(GENES) + 1)
    assert (tokenize.num_candidates_n(cells) + 1).tolist() == list(whole(cells, Draw(seed)).layout.lengths)
