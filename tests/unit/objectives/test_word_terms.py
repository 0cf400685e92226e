"""What weighs the same in the losses of sentences, and metadata told from the task word's state alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toy_cells import TOY_VOCAB, ToySentenceModel, ToyTokenizer, toy_cells

from cellwright.objectives import Objective
from cellwright.objectives.cell import Label
from cellwright.objectives.entity import NextEntity, NextLevel
from cellwright.objectives.sentences import CSentence, SentenceTask
from cellwright.objectives.word_label import WordLabel, task_state
from cellwright.types import Draw

ANNOTATE = SentenceTask(word="annotate", asked=("coarse_type", "cell_type"))
PLACE = SentenceTask(word="place", asked=("organ",))
GENERATE = SentenceTask(word="generate", given=("organ",), asks_genes=True)
IDS = {name: TOY_VOCAB.category_ids(name).tolist() for name in ("organ", "coarse_type", "cell_type")}


def some(cells, rows):
    return cells.take(np.array(rows))


def answered(tasks, cells, *, is_packed=True, seed=0):
    tokens, targets = CSentence(tasks=tasks, order="forward")(cells, ToyTokenizer(is_packed=is_packed), Draw(seed))
    return ToySentenceModel()(tokens), targets


@pytest.mark.parametrize("term", [NextEntity, NextLevel])
@pytest.mark.parametrize("is_packed", [True, False])
def test_per_sentence_is_the_mean_over_the_means_of_sentences(term, is_packed):
    cells = toy_cells(5, lengths=[20, 1, 7, 0, 12])
    out, targets = answered((ANNOTATE, GENERATE), cells, is_packed=is_packed)
    lengths, is_asked_nt = out.layout.lengths, out.layout.pack(targets.is_asked_nt)[0]
    num_asked = [int(part.sum()) for part in is_asked_nt.split(list(lengths))]
    assert len(set(num_asked)) > 2
    alone, weights = [], []
    for row in range(len(cells)):
        is_own_nt = out.layout.spread(torch.arange(len(cells))) == row
        own = replace(targets, is_asked_nt=targets.is_asked_nt & is_own_nt)
        alone.append(term()(out, own))
        # an asked word has as many answers as there are words behind it; the last one has the end
        weights.append(num_asked[row] if term is NextEntity else sum(max(n, 1) for n in range(num_asked[row])))
    torch.testing.assert_close(term(per="sentence")(out, targets), torch.stack(alone).mean())
    weights = torch.tensor(weights, dtype=torch.float32)
    torch.testing.assert_close(term()(out, targets), (torch.stack(alone) * weights).sum() / weights.sum())


def test_short_sentences_weigh_as_much_as_long_ones_per_sentence_alone():
    cells = toy_cells(2, lengths=[20, 20])
    out, targets = answered((ANNOTATE,), some(cells, [0]))
    longer, others = answered((GENERATE,), some(cells, [1]))
    both, joint = answered((ANNOTATE, GENERATE), cells, seed=next(s for s in range(99) if _tasks(cells, s) == "ag"))
    parts = [NextEntity()(out, targets), NextEntity()(longer, others)]
    torch.testing.assert_close(NextEntity(per="sentence")(both, joint), sum(parts) / 2, rtol=1e-5, atol=0)
    torch.testing.assert_close(NextEntity()(both, joint), (3 * parts[0] + 21 * parts[1]) / 24, rtol=1e-5, atol=0)


def _tasks(cells, seed):
    tokens, _ = CSentence(tasks=(ANNOTATE, GENERATE), order="forward")(cells, ToyTokenizer(), Draw(seed))
    words = [part.tolist() for part in tokens.gene_nt[0].split(list(tokens.layout.lengths))]
    return "".join("a" if TOY_VOCAB.special_id("annotate") in part else "g" for part in words)


@pytest.mark.parametrize("is_packed", [True, False])
def test_the_task_state_has_read_the_genes_and_no_answer(is_packed):
    cells = toy_cells(4, lengths=[3, 0, 9, 5])
    out, targets = answered((ANNOTATE,), cells, is_packed=is_packed)
    hidden = list(out.layout.pack(out.hidden_ntd)[0].split(list(out.layout.lengths)))
    expected = torch.stack([part[num] for part, num in zip(hidden, [3, 0, 9, 5], strict=True)])
    torch.testing.assert_close(task_state(out, targets), expected, rtol=0, atol=0)
    out, targets = answered((GENERATE,), cells, is_packed=is_packed)
    hidden = out.layout.pack(out.hidden_ntd)[0].split(list(out.layout.lengths))
    torch.testing.assert_close(task_state(out, targets), torch.stack([part[1] for part in hidden]), rtol=0, atol=0)


@pytest.mark.parametrize("is_packed", [True, False])
def test_both_kinds_by_hand(is_packed):
    cells = toy_cells(6)
    out, targets = answered((ANNOTATE, PLACE, GENERATE), cells, is_packed=is_packed, seed=5)
    head = nn.Linear(8, 7)
    logit_nk, every = head(task_state(out, targets)), [word for ids in IDS.values() for word in ids]
    entities = out.layout.pack(targets.entity_nt)[0].split(list(out.layout.lengths))
    one, both = [], []
    for logit_k, entity_t in zip(logit_nk, entities, strict=True):
        words = entity_t.tolist()
        task = next(i for i, word in enumerate(words) if TOY_VOCAB.tokens[word] in ("<a>", "<p>", "<g>"))
        is_there = torch.tensor([word in words[task + 1 :] for word in every])
        if not is_there.any():
            continue
        parts = zip(logit_k.split([2, 2, 3]), is_there.split([2, 2, 3]), strict=True)
        one.append(sum(-part.log_softmax(0)[there].sum() for part, there in parts))
        both.append(nn.functional.binary_cross_entropy_with_logits(logit_k, is_there.float(), reduction="sum"))
    assert 0 < len(one) < len(cells)
    found = [WordLabel(head, list(IDS.values()), kind=kind)(out, targets) for kind in ("one", "any")]
    torch.testing.assert_close(found, [torch.stack(one).mean(), torch.stack(both).mean()])


def test_mistakes_of_word_labels():
    head = nn.Linear(8, 2)
    with pytest.raises(ValueError, match="at least two words"):
        WordLabel(head, [[3]])
    with pytest.raises(ValueError, match="kind is 'all'; choose one"):
        WordLabel(head, [[3, 4]], kind="all")
    out, targets = answered((GENERATE,), toy_cells(2))
    with pytest.raises(ValueError, match="is scored; give sentences that ask for one"):
        WordLabel(head, [IDS["organ"]])(out, targets)


def test_label_refuses_an_embedding_that_has_read_the_answers():
    objective = Objective(CSentence(tasks=(ANNOTATE,)), {"label": (1.0, Label(nn.Linear(8, 3)))})
    with pytest.raises(ValueError, match="has read the answers; use the view clean, or the term word_label"):
        objective.step(ToySentenceModel(), toy_cells(4), tokenize=ToyTokenizer(), draw=Draw())
