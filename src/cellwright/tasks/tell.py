"""Cells told by sentences: what a cell is (annotation), where it is from (organ), word by word.

Source: scMulan (Bian et al., RECOMB 2024); published ``scMulan.py``. It needs a family that writes sentences. What is
told are words; nothing keeps the coarse word before the fine one but what the network has learnt. The probability of
a word is its share among the words that could be said in its place. With a hierarchy, coarse and fine word are chosen
together among the pairs that it allows (`cellwright.tasks.pairs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from cellwright.config import Config, did_you_mean
from cellwright.protocols import CellSource
from cellwright.tasks.annotate import UNASSIGNED, check_threshold
from cellwright.tasks.answers import Answers
from cellwright.tasks.decode import DecodeConfig, Written, allowed_words, decode
from cellwright.tasks.embed import check_vocab
from cellwright.tasks.hierarchy import WordHierarchy
from cellwright.tasks.inference import InferenceOptions, choose_device, in_precision, in_use, run_tokenizer
from cellwright.tasks.pairs import PairProbs, score_pairs
from cellwright.tasks.smooth import UNCLASSIFIED, SmoothedLabels
from cellwright.types import TokenBatch
from cellwright.vocab import GeneVocab


class TellConfig(Config):
    """What cells are asked."""

    word: str = "annotate"
    """Role of the special token that asks: annotate (cell type), place (organ and region)."""
    asked: tuple[str, ...] = Field(("coarse_type", "cell_type"), min_length=1)
    """Categories of the words that answer, in order; ("organ", "region") for place."""
    barred: Literal["said", "said_before_last"] = "said_before_last"
    """Whether a word can come twice in a row, as when the fine type is the coarse one (published: it can)."""
    restricted: Literal["in_turn", "any", "no"] = "in_turn"
    """Which words can be said. in_turn: words of each asked category in its turn, then the end. any: words of any asked
    category, and the end, in any turn. no (published): all words; an answer that is no word of the asked categories is
    called unclassified. Trained on sets, a network has no reason to say the coarse word before the fine one."""
    embedding: Literal["coarse", "task"] = "coarse"
    """Whose hidden state is the cell embedding: the first answer's (published code) or the asking word's (paper). The
    published one slips back by a word for each answer that is missing; so does this."""
    unclassified: str = UNCLASSIFIED
    """What to call an answer that is no word of the asked categories."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ToldCells:
    """Answers, in the order of the source."""

    words: dict[str, np.ndarray]
    """Category -> str ``[n]``."""
    probs: dict[str, np.ndarray]
    """Category -> float32 ``[n]``: share of the word among those that could be said in its place (softmax of scores), 0
    for an unclassified cell. With ``restricted="in_turn"`` these are the words of the category alone. With a hierarchy,
    that of the fine word is the probability of the pair, p(coarse) p(fine | coarse said)."""
    embedding_nd: np.ndarray
    """float32 ``[n, d]``."""
    is_ended_n: np.ndarray
    """bool: the sentence came to its end within one word more than was asked."""
    pairs: PairProbs | None = None
    """Of a question with a hierarchy: the probabilities of all pairs."""
    hierarchy: WordHierarchy | None = None
    """The hierarchy that the pairs obey."""
    answers: Answers | None = None
    """Broader answers along a hierarchy, where they were asked for; words and their probabilities are as without."""
    smoothed: SmoothedLabels | None = None
    """Labels after the vote of neighbouring cells, where it was asked for."""


def tell_cells(
    model: Any, source: CellSource, config: TellConfig | None = None, *, options: InferenceOptions | None = None
) -> ToldCells:
    """Ask every cell what it is, as published scMulan annotates: highest score at each word.

    As published, the answers are the last words before the final one: a cell that ends early has its later answers
    moved up, and earlier ones unclassified.

    Raises
    ------
    ValueError
        When the family writes no sentences, the vocabulary lacks a category or the asking word, or the source was
        mapped onto another vocabulary.
    """
    config, options = config or TellConfig(), options or InferenceOptions()
    check_writes(model)
    check_vocab(model, source)
    answers = {name: set(model.vocab.categories[name]) for name in config.asked if len(model.vocab.category_ids(name))}
    known = set().union(*answers.values())
    end = model.vocab.special_id("end")
    is_end_read = config.embedding == "coarse" and len(config.asked) == 1  # the only answer's state is wanted
    how = DecodeConfig(max_new=len(config.asked) + 1, barred=config.barred, is_end_read=is_end_read)
    allowed_sv = _allowed(config, model.vocab, end)
    words = {name: np.full(len(source), config.unclassified, dtype=object) for name in config.asked}
    probs = {name: np.zeros(len(source), np.float32) for name in config.asked}
    embedding_nd = np.empty((len(source), model.network.width), np.float32)
    is_ended_n = np.zeros(len(source), bool)
    device = choose_device(options.device)
    with in_use([model.network], device):
        for at_n, tokens in _prompts(model, source, config.word, options):
            with in_precision(options, device):
                written = decode(model.network, tokens, how, end=end, allowed_sv=allowed_sv, is_recorded=True)
            for at, sentence in zip(at_n, written, strict=True):
                for back, name in zip(range(len(config.asked), 0, -1), config.asked, strict=True):
                    word, prob = _word_before_last(sentence, back, model)
                    if word in known:
                        words[name][at], probs[name][at] = word, prob
                embedding_nd[at] = _embedding(sentence, config).numpy()
                is_ended_n[at] = sentence.is_ended
    return ToldCells(
        words={name: label_n.astype(str) for name, label_n in words.items()},
        probs=probs,
        embedding_nd=embedding_nd,
        is_ended_n=is_ended_n,
    )


def _allowed(config: TellConfig, vocab: GeneVocab, end: int) -> torch.Tensor | None:
    if config.restricted == "no":
        return None
    turns = [vocab.category_ids(name) for name in config.asked]
    if config.restricted == "any":
        return allowed_words(len(vocab), [end], *turns)
    return torch.stack([*(allowed_words(len(vocab), turn) for turn in turns), allowed_words(len(vocab), [end])])


def check_writes(model: Any) -> None:
    """Refuse a model of a family that writes no sentences."""
    if model.family.decoding != "autoregressive":
        raise ValueError(f"{model.family.title} writes no sentences; use a family that does, such as scMulan")


def tell_pairs(
    model: Any,
    source: CellSource,
    hierarchy: WordHierarchy,
    *,
    word: str,
    asked: Sequence[str],
    coverage: float = 0.0,
    options: InferenceOptions | None = None,
) -> ToldCells:
    """Ask every cell for a coarse and a fine word, and answer with the likeliest pair that the hierarchy allows.

    Parameters
    ----------
    model
        A model of a family that writes sentences.
    source
        Cells mapped onto its vocabulary.
    hierarchy
        Which pairs there are, see `cellwright.tasks.hierarchy.model_hierarchy`.
    word
        Role of the special token that asks.
    asked
        Names of the categories: coarse and fine, or fine alone.
    coverage
        How much of the probability must be known pair by pair, see `score_pairs`.

    Returns
    -------
    Answers with ``pairs``. The probability of the coarse word is p(coarse), that of the fine word p(coarse, fine).
    Where a coarse word has no fine ones, it stands in both places.
    """
    options = options or InferenceOptions()
    check_writes(model)
    check_vocab(model, source)
    device = choose_device(options.device)
    with in_use([model.network], device), in_precision(options, device):
        pairs = score_pairs(
            model.network,
            _prompts(model, source, word, options),
            len(source),
            vocab=model.vocab,
            hierarchy=hierarchy,
            coverage=coverage,
        )
    return ToldCells(
        words=dict(zip(reversed(asked), reversed(pairs.words()), strict=False)),
        probs=dict(zip(reversed(asked), (pairs.prob_n, pairs.coarse_prob_n), strict=False)),
        embedding_nd=pairs.embedding_nd,
        is_ended_n=np.ones(len(source), bool),
        pairs=pairs,
        hierarchy=hierarchy,
    )


def _prompts(
    model: Any, source: CellSource, word: str, options: InferenceOptions
) -> Iterator[tuple[np.ndarray, TokenBatch]]:
    """Yield (positions in the source, packed prompts on the network's device); cells of like length together."""
    for at_n, tokens in run_tokenizer(model, source, options, what="tell", inputs={"task_word": word}):
        yield at_n, tokens.packed()


def _word_before_last(sentence: Written, back: int, model: Any) -> tuple[str | None, float]:
    """Return the written word so many places before the last one and its probability; ``None`` where there is none."""
    place = len(sentence.entity_t) - 1 - back
    turn = place - sentence.prompt_length
    if turn < 0:
        return None, 0.0
    word = sentence.entity_t[place]
    return model.vocab.tokens[word], float(sentence.scores[turn].softmax(-1)[word])


def _embedding(sentence: Written, config: TellConfig) -> torch.Tensor:
    if config.embedding == "task":
        return sentence.hidden_at(sentence.prompt_length - 1)
    # the last word is never read; published code takes the state at the first answer when all were given
    return sentence.hidden_at(max(len(sentence.entity_t) - 1 - len(config.asked), 0))


def tell_categories(
    model: Any,
    source: CellSource,
    wanted: Sequence[str] = (),
    *,
    is_faithful: bool = False,
    threshold: float = 0.0,
    hierarchy: WordHierarchy | None = None,
    coverage: float = 0.0,
    options: InferenceOptions | None = None,
) -> ToldCells:
    """Tell words of chosen categories, by the questions that the model was trained on, or else its family's.

    A question is always asked whole: who wants the region alone has the organ told first, as in training.

    Parameters
    ----------
    wanted
        Categories, also by their published names; empty = the family's first question (scMulan: the cell type).
    is_faithful
        As the published code does: every word may be said, and an answer that is no word of the question's categories
        is unclassified.
    threshold
        Words whose probability is below are "unassigned", 0 .. 1.
    hierarchy
        Of the words of the family's first question: its answer is the likeliest pair that the hierarchy allows.
    coverage
        See `tell_pairs`.

    Returns
    -------
    Answers in the order of the questions; the embedding is that of the first one.

    Raises
    ------
    ValueError
        When the family writes no sentences, no question has a wanted category, or the vocabulary has no words of it.
    """
    check_threshold(threshold)
    questions = choose_questions(model, wanted)
    words, probs, told = {}, {}, []
    for word, (asked, kept) in questions.items():
        if hierarchy is not None and not is_faithful and word == next(iter(model.family.questions)):
            one = tell_pairs(model, source, hierarchy, word=word, asked=asked, coverage=coverage, options=options)
        else:
            config = TellConfig(word=word, asked=asked, restricted="no" if is_faithful else "in_turn")
            one = tell_cells(model, source, config, options=options)
        told.append(one)
        for name in kept:
            label_n, probs[name] = told[-1].words[name], told[-1].probs[name]
            words[name] = np.where(probs[name] >= threshold, label_n.astype(object), UNASSIGNED).astype(str)
    return ToldCells(
        words=words,
        probs=probs,
        embedding_nd=told[0].embedding_nd,
        is_ended_n=np.all([part.is_ended_n for part in told], axis=0),
        pairs=next((part.pairs for part in told if part.pairs is not None), None),
        hierarchy=next((part.hierarchy for part in told if part.hierarchy is not None), None),
    )


def choose_questions(model: Any, wanted: Sequence[str] = ()) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the questions to ask: role of the asking word -> (categories asked, those of them that are wanted).

    A category of which the vocabulary has no word is not asked.
    """
    check_writes(model)
    # what a model of ours was trained to be asked goes before what its family is asked
    trained = model.origin.get("pretraining", {}).get("questions", {})
    known = {
        word: tuple(name for name in asked if model.vocab.categories.get(name))
        for word, asked in {**model.family.questions, **trained}.items()
    }
    tellable = [name for asked in known.values() for name in asked]
    if not tellable:
        raise ValueError(f"{model.report.source} has no words that cells could be told by, only genes")
    names = [model.family.category(name) for name in wanted] or list(next(asked for asked in known.values() if asked))
    for name in names:
        if name not in tellable:
            near = did_you_mean(name, tellable) or f"; it can be asked {', '.join(tellable)}"
            raise ValueError(f"{model.report.source} cannot be asked for {name!r}{near}")
    kept = {word: tuple(name for name in asked if name in names) for word, asked in known.items()}
    return {word: (known[word], names) for word, names in kept.items() if names}
