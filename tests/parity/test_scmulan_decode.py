"""Sentences written word by word equal the published ones: greedy and drawn, both ban rules, alone and together."""

import json

import numpy as np
import pytest
import torch
from parity.cases import Case
from parity.sentences import sentence_tokens

from cellwright.models import load
from cellwright.tasks.decode import DecodeConfig, decode

GREEDY, DRAWN = Case("scmulan", "generate_annotation"), Case("scmulan", "generate_conditional")
RULES = {"": "said_before_last", "kv_": "said"}
MODES = {
    "kv_gamma0.1": {"gamma": 0.1},
    "kv_gamma1": {},
    "kv_topk5": {"gamma": 0.1, "top_k": 5},
    "kv_genes_only": {"gamma": 0.1},
    "nokv_gamma0.1": {"gamma": 0.1, "barred": "said_before_last"},
}


def rows(case):
    return json.loads((case.folder / "case.json").read_text())["rows"]


def prompts(case, numbers):
    """Return prompts padded to the longest; what stands at pads must not matter."""
    entity, level = ([case[f"p{i}/prompt_{key}"] for i in numbers] for key in ("ids", "vals"))
    pad = torch.nn.utils.rnn.pad_sequence
    lengths = [len(x) for x in entity]
    return sentence_tokens(pad(entity, True, 9), pad(level, True, 3), lengths)


def without(case, key):
    allowed_v = torch.ones(100, dtype=torch.bool)
    if key is not None:
        allowed_v[case[key]] = False
    return allowed_v


def assert_scores(ours, theirs):
    ours = torch.stack(ours)
    assert torch.equal(torch.isfinite(ours), torch.isfinite(theirs))
    is_open = torch.isfinite(theirs)
    torch.testing.assert_close(ours[is_open], theirs[is_open], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("ignore", ["none", "cell_types_only"])
@pytest.mark.parametrize("prefix", RULES)
@pytest.mark.parametrize("is_together", [True, False])
def test_annotation(ignore, prefix, is_together):
    network, found = load(GREEDY.folder).network, rows(GREEDY)
    numbers = sorted({row["prompt"] for row in found})
    assert len(numbers) == 15
    config = DecodeConfig(max_new=3, barred=RULES[prefix], top_k=1)
    options = {"end": 0, "is_recorded": True}
    options["allowed_sv"] = without(GREEDY, None if ignore == "none" else f"ignore_idx_{ignore}")
    groups = [numbers] if is_together else [[i] for i in numbers]
    written = [s for group in groups for s in decode(network, prompts(GREEDY, group), config, **options)]
    mismatches = 0
    for i, sentence in zip(numbers, written, strict=True):
        key = f"p{i}/{ignore}/{prefix}"
        mismatches += sentence.entity_t != GREEDY[f"{key}seq"].tolist()
        mismatches += sentence.level_t != GREEDY[f"{key}expr"].tolist()
        assert_scores(sentence.scores, GREEDY[f"{key}scores"])
        assert sentence.is_ended == (sentence.entity_t[-1] == 0)
        hidden = GREEDY[f"{key}{'' if prefix else 'last_'}hidden"]
        torch.testing.assert_close(
            torch.stack(sentence.hidden), hidden[sentence.prompt_length - 2 :], atol=1e-5, rtol=1e-5
        )
        if not prefix:  # what the published pipeline stores as the embedding
            stored = sentence.hidden_at(len(sentence.entity_t) - 3)
            torch.testing.assert_close(stored, GREEDY[f"{key}embedding"], atol=1e-5, rtol=1e-5)
    assert mismatches == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_together", [True, False])
def test_drawn_sentences(mode, is_together):
    network = load(DRAWN.folder).network
    found = [row for row in rows(DRAWN) if row["mode"] == mode]
    assert len(found) == 6
    config = DecodeConfig(max_total=40, **MODES[mode])
    allowed_v = without(DRAWN, "non_gene_idx" if mode == "kv_genes_only" else None)
    groups = [found] if is_together else [[row] for row in found]
    mismatches = 0
    for group in groups:
        written = decode(
            network,
            prompts(DRAWN, [row["prompt"] for row in group]),
            config,
            end=0,
            allowed_sv=allowed_v,
            generators=[torch.Generator().manual_seed(row["seed"]) for row in group],
            is_recorded=True,
        )
        for row, sentence in zip(group, written, strict=True):
            key = f"p{row['prompt']}/{mode}/s{row['seed']}/"
            mismatches += sentence.entity_t != DRAWN[f"{key}seq"].tolist()
            mismatches += sentence.level_t != DRAWN[f"{key}expr"].tolist()
            assert sentence.is_ended == row["ended"]
            assert_scores(sentence.scores, DRAWN[f"{key}scores"])
    assert mismatches == 0


def test_both_rules_differ_where_a_word_comes_twice():
    keys = [f"p{row['prompt']}/{row['ignore']}/" for row in rows(GREEDY)]
    differ = [key for key in keys if not torch.equal(GREEDY[f"{key}seq"], GREEDY[f"{key}kv_seq"])]
    assert differ
    for key in differ:
        assert len(set(GREEDY[f"{key}kv_seq"].tolist())) == len(GREEDY[f"{key}kv_seq"])


def test_options_of_our_own():
    network, prompt = load(DRAWN.folder).network, prompts(DRAWN, [0])

    def words(seed=0, **options):
        config = DecodeConfig(max_new=6, **options)
        return decode(network, prompt, config, end=0, generators=[torch.Generator().manual_seed(seed)])[0].entity_t

    greedy = decode(network, prompt, DecodeConfig(max_new=6), end=0)[0].entity_t
    assert words(top_k=1) == words(top_p=1e-6) == words(temperature=1e-4) == greedy
    assert words(seed=1) != words(seed=2)
    assert words(seed=1) == words(seed=1, top_p=1.0) == words(seed=1, top_k=100)
    assert not any(0 in words(seed=i, gamma=0.0)[3:] for i in range(5))
    steps = torch.zeros(2, 100, dtype=torch.bool)
    steps[0, 61:63], steps[1, [5, 6]] = True, True
    told = decode(network, prompt, DecodeConfig(max_new=6), end=0, allowed_sv=steps)[0]
    assert told.is_ended
    assert sorted(told.entity_t[3:]) == sorted([*told.entity_t[3:4], 5, 6, 0])  # nothing else was left
    with pytest.raises(ValueError, match="2 generators for 1 sentences"):
        decode(network, prompt, DecodeConfig(max_new=1), end=0, generators=[torch.Generator()] * 2)
    with pytest.raises(ValueError, match="max_new or max_total"):
        DecodeConfig()
    assert np.isfinite(told.level_t).all()
