"""The network equals the published classes, layer by layer, at once and word by word."""

import pytest
import torch
from parity.cases import Case, assert_close
from parity.sentences import cut, sentence_tokens

from cellwright.models import FAMILIES, load

NAMES = ["forward_nobias", "forward_bias"]


@pytest.fixture(params=NAMES)
def case(request):
    return Case("scmulan", request.param)


def whole(case):
    return sentence_tokens(case["idx"], case["x_expr"])


@torch.inference_mode()
def test_whole_sentences(case):
    model = load(case.folder)
    out = model.network(whole(case))
    assert_close(out.hidden_ntd, case["hidden"])
    assert_close(out.entity.dense(), case["logits_cls_all"])
    assert_close(out.level.dense(), case["logits_exp_all"])
    assert_close(out.entity.dense()[:, -1:], case["logits_cls"])
    assert_close(out.level.dense()[:, -1:], case["logits_exp"])
    assert_close(out.cell_nd, case["hidden"][:, -1])
    assert_close(model.network.gene_encoder(case["idx"]), case["tok_emb"])


@torch.inference_mode()
def test_each_block(case):
    model = load(case.folder)
    found = []
    for block in model.network.blocks:
        block.register_forward_hook(lambda _module, _given, out: found.append(out))
    model.network(whole(case))
    torch.testing.assert_close(torch.stack(found), case["block_out"], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_vectors_in_the_place_of_words(case):
    tokens = whole(case)
    out = load(case.folder).network.forward_embedded(case["inputs_embeds"], tokens)
    assert_close(out.hidden_ntd, case["ie_hidden"])
    assert_close(out.entity.dense()[:, -1:], case["ie_logits_cls"])
    assert_close(out.level.dense()[:, -1:], case["ie_logits_exp"])


@torch.inference_mode()
@pytest.mark.parametrize("steps", [[10, *[1] * 7], [17], [1] * 17, [3, 5, 1, 8]], ids=["published", "1", "17", "odd"])
def test_word_by_word(case, steps):
    network, tokens = load(case.folder).network, whole(case)
    cache, at, hidden, entity, level = network.new_cache(17), 0, [], [], []
    for step in steps:
        out = network(cut(tokens, at, at + step), cache=cache)
        at += step
        hidden.append(out.hidden_ntd)
        entity.append(out.entity.dense())
        level.append(out.level.dense())
    assert cache.lengths == (17,) * 3
    assert_close(torch.cat(hidden, 1), case["step_hidden"])
    assert_close(torch.cat(entity, 1)[:, 9:], case["step_logits_cls"])
    assert_close(torch.cat(level, 1)[:, 9:], case["step_logits_exp"])
    for i, layer in enumerate(cache.layers):  # published caches are [n, h, t, dh]
        assert_close(layer.k_nchd.transpose(1, 2), case["kv_keys"][i])
        assert_close(layer.v_nchd.transpose(1, 2), case["kv_values"][i])


@torch.inference_mode()
def test_rows_of_different_lengths_share_a_cache(case):
    network = load(case.folder).network
    cuts = [(3, 1, 13), (9, 2, 6), (1, 7, 9)]  # words of each row in three calls
    cache, got = network.new_cache(17), [[], [], []]
    at = [0, 0, 0]
    for call in range(3):
        lengths = [row[call] for row in cuts]
        entity = torch.full((3, max(lengths)), 5)  # any word may stand at pads
        level = torch.full(entity.shape, 7)
        for i, length in enumerate(lengths):
            entity[i, :length] = case["idx"][i, at[i] : at[i] + length]
            level[i, :length] = case["x_expr"][i, at[i] : at[i] + length]
        hidden = network(sentence_tokens(entity, level, lengths), cache=cache).hidden_ntd
        for i, length in enumerate(lengths):
            got[i].append(hidden[i, :length])
            at[i] += length
    assert cache.lengths == (17, 17, 17)
    assert_close(torch.stack([torch.cat(row) for row in got]), case["hidden"])


@torch.inference_mode()
def test_packed_sentences_of_different_lengths(case):
    network, lengths = load(case.folder).network, (17, 4, 11)
    tokens = sentence_tokens(case["idx"], case["x_expr"], lengths)
    for other in (tokens, tokens.packed()):
        out = network(other)
        for i, length in enumerate(lengths):
            hidden = other.layout.pad(out.hidden_ntd)
            assert_close(hidden[i, :length], case["hidden"][i, :length])
            assert_close(out.cell_nd[i], case["hidden"][i, length - 1])


def test_a_cache_is_kept_honest():
    case = Case("scmulan", NAMES[0])
    network, tokens = load(case.folder).network, whole(case)
    with pytest.raises(ValueError, match="would have 17 tokens; the cache was made for 16"):
        network(tokens, cache=network.new_cache(16))
    cache = network.new_cache(20)
    network(tokens, cache=cache)
    with pytest.raises(ValueError, match="holds 3 cells, the tokens are of 1"):
        network(sentence_tokens([[1]], [[1]]), cache=cache)
    other = FAMILIES["scmulan"].sizes["tiny"].override(["num_layers=1"])
    model = load(case.folder)
    small = FAMILIES["scmulan"].build(other, model.vocab)
    with pytest.raises(ValueError, match="a cache of 2 layers does not fit 1 blocks"):
        small(tokens, cache=network.new_cache(17))


@torch.inference_mode()
def test_rows_can_be_taken_out_of_a_cache(case):
    network, tokens = load(case.folder).network, whole(case)
    cache = network.new_cache(17)
    network(cut(tokens, 0, 12), cache=cache)
    cache.take(torch.tensor([2, 0]))
    rest = cut(tokens, 12, 17)
    some = sentence_tokens(rest.gene_nt[[2, 0]], rest.value_nt[[2, 0]])
    assert_close(network(some, cache=cache).hidden_ntd, case["hidden"][[2, 0], 12:])
