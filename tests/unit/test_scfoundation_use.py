"""Tokens, depths and options of scFoundation models, on cells of one's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cellwright.models import FAMILIES, InputConfig, load, new_model
from cellwright.models.scfoundation import model as scfoundation_model
from cellwright.protocols import DepthTokenizer
from cellwright.tasks.inference import InferenceOptions, in_use, run_network
from cellwright.types import CellBatch, Draw, Layout
from cellwright.vocab import GeneVocab

FAMILY = FAMILIES["scfoundation"]
VOCAB = GeneVocab.from_genes([f"G{i}" for i in range(12)], FAMILY.specials)
T, S, PAD = 12, 13, 14


def model_of(*overrides, vocab=VOCAB):
    return new_model("scfoundation", vocab, FAMILY.sizes["tiny"].override(overrides), seed=3)


def cells_of(*rows, total_n=None, state="raw"):
    """Each row a table gene -> value."""
    length_n = [len(row) for row in rows]
    value_z = np.array([value for row in rows for value in row.values()], np.float32)
    sums_n = np.array([sum(row.values()) for row in rows], np.float64)
    return CellBatch(
        indptr_n1=np.concatenate([[0], np.cumsum(length_n)]),
        gene_z=np.array([gene for row in rows for gene in row], np.int32),
        value_z=value_z,
        row_n=np.arange(len(rows)) + 7,
        total_n=sums_n if total_n is None else np.array(total_n, np.float64),
        state=state,
    )


CELLS = cells_of({1: 3, 4: 7}, {0: 50, 2: 30, 11: 20}, total_n=[40, 200])


def tokens_of(cells=CELLS, model=None, target_total_n=None, is_packed=True, **inputs):
    model = model or model_of()
    tokens = FAMILY.tokenizer(model.config, model.vocab, InputConfig(**inputs), is_packed=is_packed)
    return tokens(cells, Draw(), target_total_n)


def by_cell(tokens):
    genes, values = (x[0].split(tokens.layout.lengths) for x in (tokens.gene_nt, tokens.value_nt))
    return [list(zip(g.tolist(), v.tolist(), strict=True)) for g, v in zip(genes, values, strict=True)]


def depths(tokens):
    """Return (T, S) of each cell."""
    found = by_cell(tokens)
    assert all([gene for gene, _ in cell[-2:]] == [T, S] for cell in found)
    return [tuple(value for _, value in cell[-2:]) for cell in found]


def test_expressed_genes_then_depths():
    one, two = by_cell(tokens_of())
    assert [gene for gene, _ in one] == [1, 4, T, S]
    assert [gene for gene, _ in two] == [0, 2, 11, T, S]
    # the total over the vocabulary's genes, though the source has more molecules
    assert [value for _, value in one] == pytest.approx([np.log1p(3000), np.log1p(7000), 4, 1])
    assert [value for _, value in two] == pytest.approx([np.log1p(5000), np.log1p(3000), np.log1p(2000), 4, 2])


def test_all_genes_of_a_panel():
    tokens = tokens_of(genes="panel")
    assert tokens.layout.lengths == (14, 14)
    one, _ = by_cell(tokens)
    assert [gene for gene, _ in one] == list(range(14))
    assert [gene for gene, value in one if value > 0] == [1, 4, T, S]
    some = tokens_of(genes="panel", panel=("G4", "G0"))
    assert [[gene for gene, _ in cell] for cell in by_cell(some)] == [[0, 4, T, S]] * 2
    assert depths(some) == depths(tokens)
    expressed = tokens_of(panel=("G4",))
    assert [[gene for gene, _ in cell] for cell in by_cell(expressed)] == [[4, T, S], [T, S]]
    with pytest.raises(ValueError, match="1 genes of the panel are not in the vocabulary: <T>"):
        tokens_of(panel=("G1", "<T>"))


def test_padded_is_the_packed_form_padded():
    padded = tokens_of(is_packed=False)
    assert padded.layout.width == 5
    assert padded.gene_nt[0, -1] == PAD
    packed = padded.packed()
    assert torch.equal(packed.gene_nt, tokens_of().gene_nt)
    assert torch.equal(packed.value_nt, tokens_of().value_nt)


@pytest.mark.parametrize(
    ("depth", "target"), [("t4.5", (4.5, 4.5)), ("f2", (20, 200)), ("a1", (2, 3)), ("added=1", (2, 3)), ("t0", (0, 0))]
)
def test_depths_asked_for(depth, target):
    want = np.log10(target) if depth[0] == "f" else target
    assert [t for t, _ in depths(tokens_of(depth=depth))] == pytest.approx(list(want))
    assert [s for _, s in depths(tokens_of(depth=depth))] == pytest.approx([1, 2])


def test_molecules_asked_for_take_the_place_of_the_depth():
    assert [t for t, _ in depths(tokens_of(target_total_n=np.array([1000, 10])))] == pytest.approx([3, 1])
    with pytest.raises(ValueError, match="must be positive"):
        tokens_of(target_total_n=np.array([0, 10]))


def test_what_the_own_depth_is_told_from():
    given = tokens_of(depth="f1", depth_from="given")
    assert depths(given) == [(pytest.approx(np.log10(n)),) * 2 for n in (40, 200)]
    assert by_cell(given)[0][0][1] == pytest.approx(np.log1p(1e4 * 3 / 40))
    plain = tokens_of(depth_from="plain")
    assert depths(plain) == [(10, 10), (100, 100)]
    with pytest.raises(ValueError, match="no target can be asked for"):
        tokens_of(depth_from="plain", target_total_n=np.array([1, 1]))


def test_values_of_other_states():
    log = cells_of({1: 3.0, 4: 2.0}, state="log1p")
    assert by_cell(tokens_of(log))[0] == [(1, 3), (4, 2), (T, 4), (S, pytest.approx(np.log10(5)))]
    normalised = cells_of({1: 30.0, 4: 70.0}, state="normalised")
    assert by_cell(tokens_of(normalised))[0][0] == (1, pytest.approx(np.log1p(3000)))


@pytest.mark.parametrize("depth", ["", "4", "x4", "t", "tnan", "f0", "t-1", "total:4"])
def test_a_depth_that_is_none_is_refused_when_it_is_named(depth):
    with pytest.raises(ValueError, match="depth"):
        model_of().tokenizer(depth=depth)


def test_cells_without_depth_are_refused_by_row():
    with pytest.raises(ValueError, match="cell at row 8 has the total 0 over the genes of the vocabulary"):
        tokens_of(cells_of({1: 3}, {}))
    with pytest.raises(ValueError, match="cell at row 7 has the total nan"):
        tokens_of(cells_of({1: 3}, total_n=[np.nan]), depth_from="given")


def test_one_molecule_is_a_cell():
    tokens = tokens_of(cells_of({3: 1}))
    assert depths(tokens) == [(4, 0)]
    with torch.inference_mode():
        out = model_of().network.eval()(tokens)
    assert torch.isfinite(out.cell_nd).all()
    assert (out.hidden_ntd[0].abs().sum(1) > 0).all(), "the source depth 0 was lost"


def test_long_cells_keep_their_depths():
    cells = cells_of(dict.fromkeys(range(12), 2))
    tokens = tokens_of(cells, max_length=5)
    assert tokens.layout.lengths == (5,)
    assert depths(tokens) == [(4, pytest.approx(np.log10(24)))]
    assert tokens_of(cells, model_of("max_length=6")).layout.lengths == (6,)


def test_it_is_a_tokeniser_that_knows_depth():
    tokenize = model_of().tokenizer()
    assert isinstance(tokenize, DepthTokenizer)
    assert tokenize.depth_of(CELLS).tolist() == [10, 100]
    assert model_of().tokenizer(depth_from="given").depth_of(CELLS).tolist() == [40, 200]
    assert tokenize.num_tokens_n(CELLS).tolist() == [4, 5]
    assert model_of().tokenizer(genes="panel").num_tokens_n(CELLS).tolist() == [14, 14]


def forward(model, tokens, outputs=None):
    with torch.inference_mode():
        return model.network.eval()(tokens, outputs)


def test_the_decoder_is_not_touched_for_a_cell_embedding(monkeypatch):
    model, tokens = model_of(), tokens_of()
    want = forward(model, tokens)

    def never(*given):
        raise AssertionError("the decoder ran")

    monkeypatch.setattr(model.network, "_decode", never)
    out = forward(model, tokens, ())
    assert torch.equal(out.cell_nd, want.cell_nd)
    with pytest.raises(AssertionError, match="the decoder ran"):
        forward(model, tokens, {"value_nt"})


def test_silent_genes_change_the_decoder_and_not_the_encoder():
    model = model_of()
    few, all_ = forward(model, tokens_of(model=model)), forward(model, tokens_of(model=model, genes="panel"))
    torch.testing.assert_close(few.cell_nd, all_.cell_nd)
    is_expressed = tokens_of(genes="panel").value_nt[0] > 0
    torch.testing.assert_close(all_.hidden_ntd[0, is_expressed], few.hidden_ntd[0])
    assert (all_.hidden_ntd[0, ~is_expressed] == 0).all()
    assert not torch.allclose(all_.value_nt[0, is_expressed], few.value_nt[0], atol=1e-4)


@pytest.mark.parametrize("genes", ["expressed", "panel"])
@pytest.mark.parametrize("attention", ["linear", "exact"])
def test_packed_padded_and_alone_are_one(attention, genes):
    model = model_of(f"decoder_attention={attention}")
    packed = tokens_of(model=model, genes=genes)
    padded = tokens_of(model=model, genes=genes, is_packed=False)
    want, got = forward(model, packed), forward(model, padded)
    for field in ("context_ntd", "value_nt", "hidden_ntd"):
        torch.testing.assert_close(padded.layout.pack(getattr(got, field)), getattr(want, field), atol=1e-5, rtol=1e-4)
    alone = forward(model, tokens_of(CELLS.take(np.array([1])), model, genes=genes))
    length = alone.layout.lengths[0]
    torch.testing.assert_close(want.context_ntd[:, -length:], alone.context_ntd, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("is_packed", [True, False])
def test_cells_are_decoded_a_few_at_a_time(monkeypatch, is_packed):
    model = model_of()
    cells = cells_of(*({gene: 2 + gene for gene in range(i)} for i in (3, 1, 12, 2, 4)))
    tokens = tokens_of(cells, model, is_packed=is_packed)
    want = model.network.eval()(tokens)
    counts = []
    forward_of = model.network.decoder.forward

    def counted(x_ntd, layout):
        counts.append(layout.num_cells)
        return forward_of(x_ntd, layout)

    monkeypatch.setattr(model.network.decoder, "forward", counted)
    for most, groups in ((1, [1] * 5), (9, [2, 1, 1, 1]), (10, [2, 1, 2]), (100, [5])):
        monkeypatch.setattr(scfoundation_model, "GROUP", most)
        out = forward(model, tokens)
        assert counts == groups
        counts.clear()
        for field in ("context_ntd", "value_nt"):
            ours, theirs = (tokens.layout.pack(getattr(x, field)) for x in (out, want))
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    monkeypatch.setattr(scfoundation_model, "GROUP", 1)
    model.network(tokens)  # gradients are wanted
    model.network.config = model.config.override(["key_maximum=batch"])
    forward(model, tokens)
    assert counts == [5, 5]


def test_exact_and_linear_decoders_differ_in_attention_alone():
    linear, exact = model_of(), model_of("decoder_attention=exact")
    extra = set(linear.network.state_dict()) - set(exact.network.state_dict())
    assert extra == {f"decoder.{i}.attention.projection_md" for i in range(2)}


def test_projections_come_from_the_seed():
    one, two, other = (
        new_model("scfoundation", VOCAB, FAMILY.sizes["tiny"], seed=seed).network.decoder for seed in (1, 1, 2)
    )
    projections = [[block.attention.projection_md for block in decoder] for decoder in (one, two, other)]
    assert torch.equal(projections[0][0], projections[1][0])
    assert not torch.equal(projections[0][0], projections[0][1])
    assert not torch.equal(projections[0][0], projections[2][0])


@pytest.mark.parametrize("pooling", ["all", "max"])
def test_pooling_without_a_gene_to_see(pooling):
    model = model_of(f"pooling={pooling}")
    tokens = tokens_of(model=model)
    out = forward(model, tokens.hide(tokens.gene_nt < 12), ())
    assert out.cell_nd.shape == (2, model.network.width) == (2, model.config.width)
    assert torch.isfinite(out.cell_nd).all()
    if pooling == "all":
        assert (out.cell_nd[:, 64:] == 0).all()
        assert (out.cell_nd[:, :64] != 0).any()


def test_a_hidden_depth_is_hidden_and_keeps_its_place():
    model, tokens = model_of(), tokens_of()
    is_target_nt = tokens.gene_nt == T
    a, b = (forward(model, t.hide(is_target_nt)) for t in (tokens, tokens_of(depth="t2")))
    assert torch.equal(a.cell_nd, b.cell_nd)
    assert not torch.equal(a.cell_nd, forward(model, tokens).cell_nd)


def test_tokens_that_it_cannot_read_are_refused():
    model, tokens = model_of(), tokens_of()
    lacking = replace(tokens, gene_nt=torch.where(tokens.gene_nt == S, 3, tokens.gene_nt))
    with pytest.raises(ValueError, match="one token of its source depth"):
        forward(model, lacking)
    twice = replace(tokens, gene_nt=torch.where(tokens.gene_nt == 1, T, tokens.gene_nt))
    with pytest.raises(ValueError, match="one token of its target depth"):
        forward(model, twice)
    with pytest.raises(ValueError, match="reads no prompts"):
        forward(model, replace(tokens, layout=Layout((4, 5), None, (2, 2))))
    with pytest.raises(ValueError, match="reads no prompts"):
        forward(model, replace(tokens, cell_nd=torch.zeros(2, 128)))


def test_depths_may_stand_anywhere_in_a_vocabulary():
    tokens = ("<S>", *(f"G{i}" for i in range(12)), "<pad>", "<T>")
    other = model_of(vocab=GeneVocab(tokens, FAMILY.specials))
    place = [1 + i for i in range(12)] + [14, 0, 13]  # of ours in the other
    state = model_of().network.state_dict()
    state["gene_encoder.weight"] = state["gene_encoder.weight"][np.argsort(place)]
    other.network.load_state_dict(state)
    cells = replace(CELLS, gene_z=CELLS.gene_z + 1)
    want = forward(model_of(), tokens_of(genes="panel"))
    got = forward(other, tokens_of(cells, other, genes="panel"))
    torch.testing.assert_close(got.cell_nd, want.cell_nd)
    torch.testing.assert_close(got.value_nt, want.value_nt, atol=1e-6, rtol=1e-5)


class Source:
    """Cells in memory."""

    vocab, state = VOCAB, "raw"

    def __init__(self, cells):
        self.cells = cells

    def __len__(self):
        return len(self.cells)

    def read(self, rows):
        return self.cells.take(rows)


def test_minibatches_are_planned_for_the_tokens_that_come():
    model = model_of()
    source = Source(cells_of(*(dict.fromkeys(range(1 + i), 1) for i in range(6))))
    options = InferenceOptions(progress=False, device="cpu", max_tokens=30)
    for genes, sizes in (("expressed", [5, 1]), ("panel", [2, 2, 2])):
        model.inputs = InputConfig(genes=genes)
        with in_use([model.network], torch.device("cpu")):
            found = [(len(at_n), sum(out.layout.lengths)) for at_n, out in run_network(model, source, options)]
        assert [num for num, _ in found] == sizes
        assert max(num_tokens for _, num_tokens in found) <= 30


def test_choices_of_input_are_kept_with_a_model(tmp_path):
    model = model_of()
    model.inputs = InputConfig(depth="a5", genes="panel", depth_from="given")
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.inputs == model.inputs
    assert str(again.tokenizer().depth) == "a5"
    assert again.tokenizer(depth="t4").depth_from == "given"


def test_other_families_know_all_genes_of_a_panel_in_their_way():
    scgpt, scmulan = FAMILIES["scgpt"], FAMILIES["scmulan"]
    vocab = GeneVocab.from_genes(VOCAB.genes, scgpt.specials)
    panel = InputConfig(genes="panel", panel=("G1", "G4", "G5"))
    tokenize = scgpt.tokenizer(scgpt.sizes["tiny"], vocab, panel)
    assert tokenize(CELLS, Draw()).layout.lengths == (4, 4) == tuple(tokenize.num_tokens_n(CELLS).tolist())
    with pytest.raises(ValueError, match="expressed genes only"):
        scmulan.tokenizer(scmulan.sizes["tiny"], GeneVocab.from_genes(VOCAB.genes, scmulan.specials), panel)
