"""Sentences as views: which tasks a cell can have, and what its words are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_cells import TOY_VOCAB, WORDS, ToySentenceModel, ToyTokenizer, toy_cells

from cellwright.objectives import TERMS, VIEWS, Objective
from cellwright.objectives.sentences import CSentence, SentenceTask
from cellwright.types import Draw

ANNOTATE = SentenceTask(word="annotate", asked=("coarse_type", "cell_type"))
GENERATE = SentenceTask(word="generate", given=("organ",), asks_genes=True)


def sentences(view, cells, draw=None):
    tokens, targets = view(cells, ToyTokenizer(), draw or Draw(0))
    parts = (x[0].split(tokens.layout.lengths) for x in (tokens.gene_nt, targets.is_asked_nt))
    return [
        ([TOY_VOCAB.tokens[i] for i in entity], "".join(".?"[int(asked)] for asked in is_asked))
        for entity, is_asked in zip(*parts, strict=True)
    ]


def with_obs(cells, **codes):
    return replace(cells, obs={**cells.obs, **{name: np.asarray(code) for name, code in codes.items()}})


def test_words_of_an_annotation():
    cells = with_obs(toy_cells(2, lengths=[3, 1]), coarse_type=[1, 0], cell_type=[2, 0])
    genes = [[f"G{i}" for i in cells.gene_z[:3][::-1]], [f"G{cells.gene_z[3]}"]]
    found = sentences(CSentence(tasks=(ANNOTATE,), order="reverse"), cells)
    assert found == [([*genes[0], "<a>", "t1", "c2"], "...???"), ([*genes[1], "<a>", "t0", "t0"], ".???")]


def test_words_of_a_generation():
    cells = with_obs(toy_cells(2, lengths=[2, 0]), organ=[1, 0])
    genes = [f"G{i}" for i in cells.gene_z]
    found = sentences(CSentence(tasks=(GENERATE,), order="forward"), cells)
    assert found == [(["o1", "<g>", *genes], ".???"), (["o0", "<g>"], ".?")]


def test_tasks_are_drawn_by_weight_among_those_a_cell_can_have():
    num = 400
    cells = toy_cells(num, lengths=[2] * num)
    no_organ = np.arange(num) % 2
    cells = with_obs(cells, organ=np.where(no_organ, -1, 0))
    view = CSentence(tasks=(ANNOTATE, GENERATE.model_copy(update={"weight": 3.0})))
    words = [set(words) for words, _ in sentences(view, cells)]
    made = np.array(["<g>" in found for found in words])
    assert not made[no_organ == 1].any()
    assert 0.65 < made[no_organ == 0].mean() < 0.85
    again = [set(words) for words, _ in sentences(view, cells)]
    assert words == again


def test_mistakes():
    cells, view = toy_cells(3), CSentence(tasks=(ANNOTATE,))
    with pytest.raises(ValueError, match="row 1 lacks a word for every task.*annotate needs"):
        view(with_obs(cells, cell_type=[0, -1, 1]), ToyTokenizer(), Draw())
    with pytest.raises(ValueError, match="holds the code 3; the vocabulary has 3 words of it"):
        view(with_obs(cells, cell_type=[0, 3, 1]), ToyTokenizer(), Draw())
    with pytest.raises(ValueError, match="need the cells' 'coarse_type', and they carry no columns"):
        view(toy_cells(3, obs=False), ToyTokenizer(), Draw())
    with pytest.raises(ValueError, match="no category 'sex'"):
        CSentence(tasks=(SentenceTask(word="annotate", asked=("sex",)),))(cells, ToyTokenizer(), Draw())
    with pytest.raises(ValueError, match="asks for nothing"):
        SentenceTask(word="annotate", given=("organ",))
    with pytest.raises(ValueError, match="makes no sentences"):
        view(cells, lambda cells, draw: None, Draw())


def test_terms_that_score_hidden_values_cannot_be_used_with_sentences():
    objective = Objective(VIEWS["c_sentence"](), {"gep": (1.0, TERMS["masked_value"]())})
    with pytest.raises(ValueError, match="the view CSentence does not give"):
        objective.check(ToySentenceModel())


def test_the_published_weights_of_both_terms():
    terms = {"next_entity": (1.0, TERMS["next_entity"]()), "next_level": (200.0, TERMS["next_level"]())}
    objective = Objective(VIEWS["c_sentence"](), terms)
    model = ToySentenceModel()
    objective.check(model)
    report = objective.step(model, toy_cells(8), tokenize=ToyTokenizer(), draw=Draw(1))
    assert report.loss.item() == pytest.approx(report.parts["next_entity"] + 200 * report.parts["next_level"])
    assert report.parts["next_entity"] > 0.3 * len(TOY_VOCAB)  # summed over the vocabulary
    assert set(WORDS) == set(TOY_VOCAB.categories)
    assert torch.isfinite(report.loss)


def test_narrowed_to_the_words_that_there_are():
    view = CSentence()
    assert view.categories == {"organ", "region", "cell_type", "coarse_type"}
    assert view.narrowed(view.categories) == view
    assert view.narrowed({"cell_type"}).lines() == ["annotate: genes -> cell_type", "generate: cell_type -> genes"]
    assert view.narrowed({"region"}).lines() == ["place: genes -> region"]
    assert view.narrowed(["coarse_type", "organ"]).lines() == [
        "annotate: genes -> coarse_type", "place: genes -> organ", "generate: organ -> genes",
    ]  # fmt: skip
    kept = CSentence(tasks=(GENERATE.model_copy(update={"weight": 3.0}), ANNOTATE), order="forward").narrowed({"organ"})
    assert (kept.order, [task.weight for task in kept.tasks]) == ("forward", [3.0])
    with pytest.raises(ValueError, match=r"no sentence can be made of words of sex alone; the sentences are: annotate"):
        view.narrowed({"sex"})
    with pytest.raises(ValueError, match="no sentence can be made of genes alone"):
        view.narrowed(())
    from_nothing = CSentence(tasks=(SentenceTask(word="generate", asks_genes=True), ANNOTATE))
    assert from_nothing.narrowed(()).lines() == ["generate: nothing -> genes"]


def test_a_cell_is_usable_with_all_words_of_one_sentence():
    view = CSentence(tasks=(ANNOTATE, GENERATE))
    codes = {"coarse_type": [0, -1, 0, -1], "cell_type": [0, 0, -1, -1], "organ": [-1, 1, -1, 0]}
    found = view.is_usable({name: np.array(code) for name, code in codes.items()})
    assert found.tolist() == [True, True, False, True]
