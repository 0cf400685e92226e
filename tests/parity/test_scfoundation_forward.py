"""The network equals the published classes: value embedding, encoder, pooling, Performer, decoder, hidden genes."""

import numpy as np
import pytest
import torch
from parity.cases import Case
from parity.depths import NUM_GENES, all_tokens, close, expressed_tokens, tiny

from cellwright.nn.embed import SoftBinValue
from cellwright.nn.performer import attend_linear, orthogonal_projection, random_features
from cellwright.types import Layout


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def case_of(name):
    return Case("scfoundation", name)


@pytest.mark.parametrize(("name", "scale", "hidden"), [("autodisc", 1.0, 102), ("autodisc_alpha_bins", 0.35, 12)])
def test_value_embedding(name, scale, hidden):
    case = case_of(name)
    num_bins, width = case["w_emb.weight"].shape
    embed = SoftBinValue(num_bins, width, scale)
    published = {"linear1": "mlp", "linear2": "mlp2", "bins": "emb", "hidden": "emb_mask"}
    embed.load_state_dict(
        {key: case[f"w_{published[key.split('.')[0]]}.{key.split('.')[1]}"] for key in embed.state_dict()}
    )
    value_nt = case["x"][..., 0]
    is_hidden_nt, is_pad_nt = value_nt == hidden, value_nt == hidden + 1
    assert is_hidden_nt.any()
    assert is_pad_nt.any()
    assert (value_nt < 0).any() or scale != 1
    close(embed.shares(value_nt), case["weight"])
    found = embed(value_nt.masked_fill(is_hidden_nt, 0.0), is_hidden_nt)
    close(found[~is_pad_nt], case["emb"][~is_pad_nt])
    # pads have a vector of their own in the published code; here nothing sees them, and the vector is only kept
    assert torch.equal(case["emb"][is_pad_nt], case["w_emb_pad.weight"].expand(int(is_pad_nt.sum()), -1))


def test_what_the_encoder_sees():
    case, model = case_of("gather"), tiny("gene")
    seen = model.network._seen(all_tokens(case["full"]))
    is_real_nt = ~case["x_padding"]
    assert seen.layout.lengths == tuple(is_real_nt.sum(1).tolist())
    width = case["full"].shape[1]
    assert torch.equal(seen.at_s % width, case["ids"][is_real_nt])
    assert torch.equal(case["full"].flatten()[seen.at_s], case["x"][is_real_nt])
    assert torch.equal(
        torch.zeros(4 * width, dtype=torch.bool).index_fill(0, seen.at_s, True), case["enc_labels"].flatten()
    )
    vocab = model.vocab
    assert vocab.tokens[NUM_GENES:] == ("<T>", "<S>", "<pad>")
    assert case["enc_pos"][case["enc_pad"]].unique().tolist() == [vocab.special_id("pad")]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("key", ["cell", "rde"])
@pytest.mark.parametrize("make", [all_tokens, expressed_tokens])
def test_encoder_and_pooling(key, index, make):
    case = case_of(f"encoder_single_{key}_{index}")
    tokens = make(case["full"])
    model = tiny(key)
    out = model.network(tokens, ())
    seen = model.network._seen(tokens)
    value_s, gene_s = tokens.value_nt.flatten()[seen.at_s], tokens.gene_nt.flatten()[seen.at_s]
    x_sd = model.network.value_encoder(value_s, torch.zeros_like(value_s, dtype=torch.bool))
    close(x_sd + model.network.gene_encoder(gene_s), case["enc_input"][0])
    close(out.hidden_ntd[0, seen.at_s], case["enc_output"][0])
    close(out.cell_nd, case["pool_all"])
    assert out.value_nt is out.context_ntd is None
    close(tiny(key, "pooling=max").network(tokens, ()).cell_nd, case["pool_max"])


@pytest.mark.parametrize("is_packed", [True, False])
def test_encoder_of_many_cells(is_packed):
    case, model = case_of("encoder_batch_padded"), tiny("cell")
    tokens = expressed_tokens(case["full"])
    tokens = tokens if is_packed else tokens.padded(model.vocab.special_id("pad"))
    hidden_ntd = tokens.layout.pack(model.network(tokens, ()).hidden_ntd)[0]
    for theirs in ("enc_output_fast", "enc_output_slow"):
        close(hidden_ntd, case[theirs][~case["padding"]])


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize(("name", "maximum"), [("decoder_single", "cell"), ("decoder_batch", "batch")])
def test_decoder(name, maximum, is_packed):
    """One cell at a time in the published code is a minibatch here; a published minibatch asks for its maximum."""
    case, model = case_of(name), tiny("gene", f"key_maximum={maximum}")
    tokens = all_tokens(case["full"])
    tokens = tokens if is_packed else tokens.padded(model.vocab.special_id("pad"))
    out = model.network(tokens)
    close(tokens.layout.pack(out.context_ntd).view_as(case["gene_emb_all62"]), case["gene_emb_all62"])
    close(tokens.layout.pack(out.value_nt).view_as(case["gene_expr_all62"]), case["gene_expr_all62"])


def test_the_published_minibatch_changes_a_cell_by_its_company():
    one, many = case_of("decoder_single"), case_of("decoder_batch")
    assert (one["gene_emb_all62"] - many["gene_emb_all62"]).abs().max() > 0.5
    full = one["full"]
    for maximum, is_same in (("cell", True), ("batch", False)):
        network = tiny("gene", f"key_maximum={maximum}").network
        alone, together = (network(all_tokens(rows)).value_nt[0, :62] for rows in (full[:1], full))
        assert torch.allclose(alone, together, atol=1e-5) == is_same


def test_hidden_genes():
    case = case_of("masked_forward")
    assert not case["mask"][:, NUM_GENES:].any()
    network = tiny("gene", "key_maximum=batch").network
    tokens = all_tokens(case["full"], case["mask"])
    seen = network._seen(tokens)
    is_seen = torch.zeros(case["full"].numel(), dtype=torch.bool).index_fill(0, seen.at_s, True)
    assert torch.equal(is_seen, case["enc_labels"].flatten())
    assert torch.equal(case["dec_data"] == 102, case["mask"])
    close(network(tokens).value_nt.view_as(case["pred_all62"]), case["pred_all62"])


def test_random_features_and_linear_attention():
    case = case_of("performer_attention")
    projection_md = case["projection_matrix"]
    close(random_features(case["q"], projection_md, is_query=True), case["phi_q"])
    close(random_features(case["k"], projection_md, is_query=False), case["phi_k"])
    q_nthd, k_nthd, v_nthd = (case[name].transpose(1, 2) for name in "qkv")
    layout = Layout((10, 10), 10)
    found = attend_linear(q_nthd, k_nthd, v_nthd, layout, projection_md, key_maximum="batch")
    close(found.transpose(1, 2), case["out"])


def test_performer_blocks():
    case, network = case_of("performer_selfattention"), tiny("gene", "key_maximum=batch").network
    layout, block = Layout((12, 12), 12), network.decoder[0]
    close(block.attention(block.norm1(case["x"]), layout), case["out_attn"])
    close(block._feed_forward(block.norm2(case["x"])), case["out_ffn"])
    found = network.decoder_norm(network.decoder(case["x"], layout))
    close(found, case["out_full"])
    assert torch.equal(case["out_full_padding_mask_kw"], case["out_full"])


def test_orthogonal_projection():
    """Other random numbers than the published ones, of the same kind."""
    case = case_of("orthogonal_projection")
    generator = torch.Generator().manual_seed(0)
    for norm, theirs in (("chi", "scaling0"), ("constant", "scaling1")):
        ours = orthogonal_projection(20, 8, generator, norm=norm)
        for projection_md in (ours, case[theirs]):
            for rows in projection_md.split(8):
                gram = torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(rows, dim=1).T
                close(gram, torch.eye(len(rows)))
            if norm == "constant":
                close(projection_md.norm(dim=1), torch.full((20,), 8**0.5))
    many = orthogonal_projection(4000, 8, generator)
    assert abs(many.square().sum(1).mean().item() - 8) < 0.2
    assert 3 < many.square().sum(1).std().item() < 5  # chi squared: sqrt(2 d) = 4
    again = [orthogonal_projection(20, 8, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*again)


def test_a_value_of_102_is_a_value():
    """The published code takes it for a hidden one; see the docstring of the value embedding."""
    embed = tiny("gene").network.value_encoder
    value_nt = torch.tensor([[102.0, 103.0, 101.99]])
    found = embed(value_nt, torch.zeros(1, 3, dtype=torch.bool))
    assert not torch.allclose(found[0, 0], embed.hidden.weight[0], atol=1e-3)
    assert np.ptp(found[0, :, 0].numpy()) < 0.05
