"""Condition flags: told by cells or known of genes, of one kind or several, and never lost on the way."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cellwright.models import InputConfig, new_model
from cellwright.models.load import load
from cellwright.models.scgpt import ScGPTConfig
from cellwright.objectives import VIEWS
from cellwright.tokens.modalities import with_asked
from cellwright.tokens.sequence import SequenceSpec, encode_cells
from cellwright.types import CellBatch, Draw, GeneFlags
from cellwright.vocab import GeneVocab

GENES = [f"G{i:02d}" for i in range(30)]
VOCAB = GeneVocab.from_genes(GENES, {"pad": "<pad>", "cls": "<cls>"})
PATHWAYS = {"G01": "wnt", "G02": "wnt", "G05": "tcr", "ABSENT": "tcr"}
SMALL = ScGPTConfig(width=16, num_heads=2, num_layers=1, feed_forward=16, dropout=0.0, has_unknown_flag=True)
LENGTHS = [12, 3, 30, 0, 20]


def cells_of(lengths=LENGTHS, seed=0, **more):
    rng = np.random.default_rng(seed)
    gene_z = [np.sort(rng.choice(30, length, replace=False)) for length in lengths]
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum(lengths)]),
        gene_z=np.concatenate(gene_z).astype(np.int32),
        value_z=rng.integers(1, 40, sum(lengths)).astype(np.float32),
        row_n=np.arange(len(lengths)) + 7,
        total_n=np.full(len(lengths), 100.0),
        **more,
    )


def model_of(conditions=None, num=3, more=(), **inputs):
    config = SMALL.override([f"num_conditions={num}", "condition_pad=0", f"more_conditions={list(more)}"])
    return new_model("scgpt", VOCAB, config, inputs=InputConfig(conditions=conditions or {}, **inputs))


def flagged(tokens):
    """(cell, gene) -> flag, of tokens whose flag is not 0."""
    packed = tokens.packed()
    cell_t, found = packed.layout.cell_of_token(), {}
    for cell, gene, flag in zip(cell_t.tolist(), packed.gene_nt[0].tolist(), packed.flag_nt[0].tolist(), strict=True):
        if flag:
            found[cell, gene] = flag
    return found


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("max_length", [None, 6])
@pytest.mark.parametrize("genes", ["expressed", "panel"])
def test_flagged_genes_are_always_tokens_and_only_they_are_flagged(is_packed, max_length, genes):
    told = [[4, 28], [], [0], [9], [1, 2, 3, 11, 29]]
    cells = cells_of(flags={"perturbed": GeneFlags.of(told, 2)})
    model = model_of(max_length=max_length, genes=genes, panel=tuple(GENES) if genes == "panel" else None)
    tokens = model.family.tokenizer(model.config, VOCAB, model.inputs, is_packed=is_packed)(cells, Draw(3))
    assert flagged(tokens) == {(cell, gene): 2 for cell, own in enumerate(told) for gene in own}
    value = dict(zip(tokens.gene_nt.flatten().tolist(), tokens.value_nt.flatten().tolist(), strict=True))
    assert value[VOCAB.special_id("cls")] == -2
    if max_length:
        assert max(tokens.layout.lengths) == 6
        assert len(set(tokens.packed().gene_nt[0, -6:].tolist())) == 6


def test_values_are_those_without_flags_and_silent_ones_are_0():
    cells, told = cells_of(), [[4, 28], [], [0], [9], [1, 2, 3, 11, 29]]
    spec = SequenceSpec(prefix=((31, -2.0),), max_length=100, num_bins=11, ties="random")
    plain = encode_cells(cells, spec, Draw(5))
    with_flags = encode_cells(replace(cells, flags={"any": GeneFlags.of(told)}), spec, Draw(5))
    for cell, own in enumerate(told):
        left, right = (
            dict(zip(*(x[0].split(t.layout.lengths)[cell].tolist() for x in (t.gene_nt, t.value_nt)), strict=True))
            for t in (plain, with_flags)
        )
        assert right == left | {gene: 0.0 for gene in own if gene not in left}
        assert list(right)[1:] == sorted(list(right)[1:])


def test_what_room_is_left_goes_to_others_evenly():
    cells = cells_of([30] * 400, flags={"any": GeneFlags.of([[7, 8]] * 400)})
    tokens = encode_cells(cells, SequenceSpec(max_length=9), Draw(1))
    count_g = np.bincount(tokens.gene_nt[0].numpy(), minlength=30)
    assert count_g[7] == count_g[8] == 400
    others = np.delete(count_g, [7, 8])
    assert others.sum() == 400 * 7
    assert others.min() > 60  # 100 expected of each, standard deviation below 9
    assert others.max() < 140


def test_a_cells_tokens_do_not_depend_on_the_minibatch():
    flags = {"perturbed": GeneFlags.of([[4], [], [0, 1], [9], [2]])}
    cells, tokenize = cells_of(flags=flags), model_of(max_length=6).tokenizer()
    whole = tokenize(cells, Draw(2))
    for cell in range(len(cells)):
        alone = tokenize(cells.take(np.array([cell])), Draw(2))
        for name in ("gene_nt", "value_nt", "flag_nt"):
            assert torch.equal(getattr(whole, name)[0].split(whole.layout.lengths)[cell], getattr(alone, name)[0])
    back = cells.take(np.array([4, 2]))
    assert back.flags["perturbed"].gene_z.tolist() == [2, 0, 1]


def test_annotations_of_genes_flag_every_cell_alike():
    tokenize = model_of({"pathway": PATHWAYS}).tokenizer()
    tokens = tokenize(cells_of(), Draw())
    want = torch.zeros(len(VOCAB), dtype=torch.long)
    want[[1, 2]], want[5] = 2, 1  # categories are numbered from 1 by the alphabet: tcr, wnt
    assert torch.equal(tokens.flag_nt, want[tokens.gene_nt])
    assert (tokens.flag_nt > 0).any()


def test_several_kinds_are_summed():
    kinds = {"perturbed": {}, "pathway": PATHWAYS, "region": {"G03": "chr1"}}
    model = model_of(kinds, more=(3, 2))
    told = [[4, 28], [], [1], [9], []]
    cells = cells_of(flags={"perturbed": GeneFlags.of(told)})
    tokens = model.tokenizer()(cells, Draw())
    assert tokens.flag_nt.shape == (*tokens.gene_nt.shape, 3)
    network = model.network.eval()
    got = network._conditions(tokens.flag_nt)
    tables = [network.condition.weight, *(table.weight for table in network.more_conditions)]
    want = sum(table[tokens.flag_nt[..., c]] for c, table in enumerate(tables))
    torch.testing.assert_close(got, want)
    silent = (tokens.flag_nt == 0).all(-1)
    assert (got[silent] == 0).all()
    assert (got[~silent].abs().amax(-1) > 0).all()
    with torch.no_grad():
        out = network(tokens).cell_nd
        assert (out - network(replace(tokens, flag_nt=torch.zeros_like(tokens.flag_nt))).cell_nd).abs().max() > 1e-4
        padded = network(tokens.padded(VOCAB.special_id("pad"))).cell_nd
    torch.testing.assert_close(out, padded, atol=1e-5, rtol=1e-4)


def test_flags_of_another_number_of_kinds_are_refused():
    model = model_of({"perturbed": {}, "pathway": PATHWAYS}, more=(3,))
    tokens = model.tokenizer()(cells_of(), Draw())
    with pytest.raises(ValueError, match="takes 2 kinds of conditions a token, and flag_nt holds 1"):
        model.network(replace(tokens, flag_nt=tokens.flag_nt[..., 0]))
    with pytest.raises(ValueError, match="takes 1 kinds of conditions a token, and flag_nt holds 2"):
        model_of().network(tokens)


@pytest.mark.parametrize("more", [(), (3,)])
def test_tokens_that_are_asked_for_beside_say_nothing(more):
    kinds = {"perturbed": {}, "pathway": PATHWAYS} if more else {}
    tokens = model_of(kinds, more=more).tokenizer()(cells_of([4, 3]), Draw())
    asked = with_asked(tokens, np.array([28, 29]), np.zeros(2), pad_gene=VOCAB.special_id("pad"))
    assert asked.flag_nt.shape == (1, tokens.flag_nt.shape[1] + 4, *tokens.flag_nt.shape[2:])
    assert (asked.flag_nt[asked.gene_nt >= 28] == 0).all()
    assert torch.equal(asked.flag_nt[0, :5], tokens.flag_nt[0, :5])


@pytest.mark.parametrize("name", ["random_mask", "generative_split"])
@pytest.mark.parametrize("more", [(), (3,)])
def test_views_move_flags_with_their_tokens(name, more):
    kinds = {"perturbed": {}, "pathway": PATHWAYS} if more else {}
    cells = cells_of(flags={"perturbed": GeneFlags.of([[4, 28], [], [0], [9], [2]])})
    tokenize = model_of(kinds, more=more).tokenizer()
    plain = tokenize(cells, Draw(1))
    tokens, _ = VIEWS[name]()(cells, tokenize, Draw(1))

    def by_gene(t):
        flag_tc = t.flag_nt[0].reshape(t.flag_nt.shape[1], -1).tolist()
        return sorted(zip(t.layout.cell_of_token().tolist(), t.gene_nt[0].tolist(), flag_tc, strict=True))

    assert by_gene(tokens) == by_gene(plain)


def test_conditions_are_saved_with_the_model(tmp_path):
    model = model_of({"perturbed": {}, "pathway": PATHWAYS}, more=(3,))
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    cells = cells_of(flags={"perturbed": GeneFlags.of([[4], [], [], [], []])})
    one, other = (m.tokenizer()(cells, Draw()) for m in (model, again))
    assert torch.equal(one.flag_nt, other.flag_nt)
    with torch.no_grad():
        assert torch.equal(model.network.eval()(one).cell_nd, again.network(other).cell_nd)
    with pytest.raises(ValueError, match="hold one kind of conditions"):
        model.release(tmp_path / "out")


def test_one_kind_goes_out_and_comes_back_under_the_published_name(tmp_path):
    model = model_of({"pathway": PATHWAYS})
    model.release(tmp_path / "out")
    state = torch.load(tmp_path / "out" / "best_model.pt", weights_only=True)
    assert torch.equal(state["pert_encoder.weight"], model.network.condition.weight)
    assert load(tmp_path / "out").config.num_conditions == 3


def test_mistakes_are_one_clear_line():
    cells = cells_of()
    with pytest.raises(ValueError, match="names 2 kinds \\(perturbed, pathway\\), the network knows 1"):
        model_of({"perturbed": {}, "pathway": PATHWAYS}).tokenizer()
    with pytest.raises(ValueError, match="pathway holds 2 categories, the network knows 1"):
        model_of({"pathway": PATHWAYS}, num=2).tokenizer()
    tokenize = model_of().tokenizer()
    with pytest.raises(ValueError, match="flag genes as 'knocked'; this model is told by cells of perturbed"):
        tokenize(replace(cells, flags={"knocked": GeneFlags.of([[1]] * 5)}), Draw())
    with pytest.raises(ValueError, match="a flag of kind 'perturbed' is 3; the network knows 0 .. 2"):
        tokenize(replace(cells, flags={"perturbed": GeneFlags.of([[1]] * 5, 3)}), Draw())
    with pytest.raises(ValueError, match="do not fit the 5 cells"):
        tokenize(replace(cells, flags={"perturbed": GeneFlags.of([[1]] * 4)}), Draw())
    with pytest.raises(ValueError, match="told by cells of nothing"):
        new_model("scgpt", VOCAB, SMALL).tokenizer()(replace(cells, flags={"a": GeneFlags.of([[1]] * 5)}), Draw())
    with pytest.raises(ValueError, match="row 7 flags 2 genes and has room for 1"):
        encode_cells(replace(cells, flags={"a": GeneFlags.of([[1, 2]] * 5)}), SequenceSpec(max_length=1), Draw())
    spec = SequenceSpec(max_length=9, panel=[1, 2], keep_zero=True)
    with pytest.raises(ValueError, match="id 9, which is not in the panel"):
        encode_cells(replace(cells, flags={"a": GeneFlags.of([[9]] * 5)}), spec, Draw())
    with pytest.raises(ValueError, match="name each vocabulary id once"):
        GeneFlags.of([[1, 1]])
    with pytest.raises(ValueError, match="give num_conditions too"):
        ScGPTConfig.read({"more_conditions": [3]}, "model")
