"""Cells told and made by sentences: what a cell is (annotation, organ), and what a cell of some kind looks like.

Source: scMulan (Bian et al., RECOMB 2024); published ``scMulan.py`` (`tell_cells`) and the notebooks of the extended
paper (`generate_cells`). Both need a family that writes sentences. What is told are words: no probabilities come with
them, and nothing keeps the coarse word before the fine one but what the network has learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from tqdm import tqdm

from cellwright.config import Config
from cellwright.protocols import CellSource
from cellwright.tasks.decode import DecodeConfig, Written, allowed_words, cell_generators, decode
from cellwright.tasks.embed import check_vocab
from cellwright.tasks.inference import READ_AHEAD, InferenceOptions, by_length, choose_device, in_use
from cellwright.tasks.smooth import UNCLASSIFIED
from cellwright.types import Draw, Layout, TokenBatch
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
    embedding_nd: np.ndarray
    """float32 ``[n, d]``."""
    is_ended_n: np.ndarray
    """bool: the sentence came to its end within one word more than was asked."""


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
    _check_family(model)
    check_vocab(model, source)
    answers = {name: set(model.vocab.categories[name]) for name in config.asked if len(model.vocab.category_ids(name))}
    known = set().union(*answers.values())
    end = model.vocab.special_id("end")
    how = DecodeConfig(max_new=len(config.asked) + 1, barred=config.barred)
    allowed_sv = _allowed(config, model.vocab, end)
    words = {name: np.full(len(source), config.unclassified, dtype=object) for name in config.asked}
    embedding_nd = np.empty((len(source), model.network.width), np.float32)
    is_ended_n = np.zeros(len(source), bool)
    with in_use([model.network], choose_device(options.device)):
        for at_n, tokens in _prompts(model, source, config.word, options):
            written = decode(model.network, tokens, how, end=end, allowed_sv=allowed_sv, is_recorded=True)
            for at, sentence in zip(at_n, written, strict=True):
                for place, name in enumerate(config.asked):
                    word = _word_before_last(sentence, len(config.asked) - place, model)
                    if word in known:
                        words[name][at] = word
                embedding_nd[at] = _embedding(sentence, config).numpy()
                is_ended_n[at] = sentence.is_ended
    return ToldCells(
        words={name: label_n.astype(str) for name, label_n in words.items()},
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


def _check_family(model: Any) -> None:
    if model.family.decoding != "autoregressive":
        raise ValueError(f"{model.family.title} writes no sentences; use a family that does, such as scMulan")


def _precision(tokens: TokenBatch, options: InferenceOptions) -> torch.autocast:
    """Run the network in the precision asked for; scores of words are formed in float32 either way."""
    return torch.autocast(tokens.gene_nt.device.type, torch.bfloat16, enabled=options.precision == "bfloat16")


def _prompts(
    model: Any, source: CellSource, word: str, options: InferenceOptions
) -> Iterator[tuple[np.ndarray, TokenBatch]]:
    """Yield (positions in the source, padded prompts on the network's device); cells of like length together."""
    changes: dict[str, Any] = {"task_word": word}
    if options.max_length is not None:
        changes["max_length"] = options.max_length
    tokenize = model.tokenizer(**changes)
    device = next(model.network.parameters()).device
    with tqdm(total=len(source), desc="tell", unit="cell", disable=not options.progress, leave=False) as bar:
        for start in range(0, len(source), READ_AHEAD):
            cells = source.read(np.arange(start, min(start + READ_AHEAD, len(source))))
            for at_n in by_length(cells.num_genes_n + 1, options):
                tokens = tokenize(cells.take(at_n), Draw(options.seed))
                yield start + at_n, tokens.padded(model.vocab.special_id("pad")).to(device)
                bar.update(len(at_n))


def _word_before_last(sentence: Written, back: int, model: Any) -> str | None:
    """Return the word so many places before the last one; ``None`` in front of the sentence."""
    place = len(sentence.entity_t) - 1 - back
    return model.vocab.tokens[sentence.entity_t[place]] if place >= 0 else None


def _embedding(sentence: Written, config: TellConfig) -> torch.Tensor:
    if config.embedding == "task":
        return sentence.hidden_at(sentence.prompt_length - 1)
    # the last word is never read; published code takes the state at the first answer when all were given
    return sentence.hidden_at(max(len(sentence.entity_t) - 1 - len(config.asked), 0))


class CellPrompt(Config):
    """A kind of cell to make."""

    words: dict[str, str]
    """Category -> word, in the order in which they are said (published: organ, cell_type, age, sex)."""
    levels: dict[str, int] = {}
    """Gene -> level that it is given, as though it were said already; 0 for a gene held silent."""
    num_cells: int = Field(1, ge=1)
    """Cells to make."""


class GenerateConfig(Config):
    """How cells are made."""

    word: str = "generate"
    """Role of the special token that asks for genes."""
    top_k: int | None = Field(None, ge=1)
    """Draw among the so many likeliest words."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Draw among the likeliest words that together reach this probability."""
    temperature: float = Field(1.0, gt=0)
    """Below 1 the likely becomes likelier."""
    gamma: float = Field(0.1, ge=0)
    """Factor on the probability of the end (published 0.1, to make cells longer)."""
    is_restricted: bool = True
    """Whether only genes and the end can be said. Published: False, and other words are left out of the cell."""
    seed: int = Field(0, ge=0)
    """The i-th cell depends on (seed, i) alone."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GeneratedCells:
    """Cells that were made, prompt by prompt."""

    level_ng: sp.csr_matrix
    """Levels / highest level, 0 .. 1, columns ``genes``: relative to each cell's highest value, not counts."""
    genes: tuple[str, ...]
    prompt_n: np.ndarray
    """int64: which prompt each cell was made for."""
    is_ended_n: np.ndarray
    """bool: the sentence came to its end; the others were cut at the greatest length."""
    num_other_n: np.ndarray
    """int64: words of each cell that are no genes and were left out."""


def generate_cells(
    model: Any,
    prompts: Sequence[CellPrompt],
    config: GenerateConfig | None = None,
    *,
    max_genes: int | None = None,
    options: InferenceOptions | None = None,
) -> GeneratedCells:
    """Make cells of given kinds, gene by gene.

    Parameters
    ----------
    model
        A model of a family that writes sentences, trained to generate.
    prompts
        Kinds of cells, and genes that they are to have.
    config
        How words are drawn.
    max_genes
        Most words written a cell, beside the genes it was given; ``None`` = what the architecture was built for.
    options
        Device and minibatch size.

    Raises
    ------
    ValueError
        When the family writes no sentences, a word is not of its category, a gene is not in the vocabulary, or a
        level is out of range.
    """
    config, options = config or GenerateConfig(), options or InferenceOptions()
    _check_family(model)
    vocab, end = model.vocab, model.vocab.special_id("end")
    if not prompts:
        raise ValueError("no cells were asked for; give at least one prompt")
    starts = [_start(prompt, config, model) for prompt in prompts]
    prompt_n = np.repeat(np.arange(len(prompts)), [prompt.num_cells for prompt in prompts])
    generators = cell_generators(config.seed, len(prompt_n))
    gene_ids = vocab.ids(vocab.genes)
    allowed_v = allowed_words(len(vocab), gene_ids, [end]) if config.is_restricted else None
    how = DecodeConfig(
        max_new=max_genes or model.config.max_length,
        top_k=config.top_k,
        top_p=config.top_p,
        temperature=config.temperature,
        gamma=config.gamma,
    )
    # memory is kept for the longest cell there could be
    size = max(1, min(options.batch_size, options.max_tokens // how.longest(max(len(e) for e, _ in starts))))
    written: list[Written] = []
    with in_use([model.network], choose_device(options.device)):
        device = next(model.network.parameters()).device
        for first in range(0, len(prompt_n), size):
            some = range(first, min(first + size, len(prompt_n)))
            tokens = _lay_out([starts[prompt_n[i]] for i in some], end).to(device)
            own = [generators[i] for i in some]
            with _precision(tokens, options):
                written += decode(model.network, tokens, how, end=end, allowed_sv=allowed_v, generators=own)
    return _read_cells(written, prompt_n, prompts, model)


def _start(prompt: CellPrompt, config: GenerateConfig, model: Any) -> tuple[list[int], list[int]]:
    """Return entities and levels of a prompt: words, the asking word, given genes."""
    vocab, top = model.vocab, model.network.num_levels
    entities = []
    for name, word in prompt.words.items():
        if not len(vocab.category_ids(name)) or word not in vocab.categories[name]:
            raise ValueError(f"{word!r} is no {name} that the model knows; it knows {_some(vocab.categories[name])}")
        entities.append(vocab.id(word))
    entities.append(vocab.special_id(config.word))
    genes = set(vocab.genes) if prompt.levels else set()
    for gene, level in prompt.levels.items():
        if gene not in genes:
            raise ValueError(f"gene {gene!r} is not in the model's vocabulary")
        if not 0 <= level <= top:
            raise ValueError(f"{gene} is given level {level}; levels are 0 .. {top}")
    levels = [0] * len(entities) + list(prompt.levels.values())
    return entities + [vocab.id(gene) for gene in prompt.levels], levels


def _some(words: Sequence[str], num: int = 5) -> str:
    return ", ".join(words[:num]) + (f" and {len(words) - num} more" if len(words) > num else "")


def _lay_out(starts: Sequence[tuple[list[int], list[int]]], pad: int) -> TokenBatch:
    lengths = tuple(len(entities) for entities, _ in starts)
    entity_nt = torch.full((len(starts), max(lengths)), pad)
    level_nt = torch.zeros(entity_nt.shape)
    for i, (entities, levels) in enumerate(starts):
        entity_nt[i, : lengths[i]] = torch.tensor(entities)
        level_nt[i, : lengths[i]] = torch.tensor(levels, dtype=torch.float32)
    is_hidden_nt = torch.zeros(entity_nt.shape, dtype=torch.bool)
    return TokenBatch(
        gene_nt=entity_nt, value_nt=level_nt, is_hidden_nt=is_hidden_nt, layout=Layout(lengths, max(lengths))
    )


def _read_cells(
    written: Sequence[Written], prompt_n: np.ndarray, prompts: Sequence[CellPrompt], model: Any
) -> GeneratedCells:
    """Put what was said behind each asking word into a matrix; a gene said twice keeps its first level."""
    vocab = model.vocab
    column_v = np.full(len(vocab), -1)
    column_v[vocab.ids(vocab.genes)] = np.arange(len(vocab.genes))
    at_n, at_g, levels, num_other_n = [], [], [], np.zeros(len(written), np.int64)
    for cell, sentence in enumerate(written):
        first = len(prompts[prompt_n[cell]].words) + 1
        stop = len(sentence.entity_t) - int(sentence.is_ended)
        said: dict[int, int] = {}
        for entity, level in zip(sentence.entity_t[first:stop], sentence.level_t[first:stop], strict=True):
            if column_v[entity] < 0:
                num_other_n[cell] += 1
            else:
                said.setdefault(int(column_v[entity]), level)
        at_n += [cell] * len(said)
        at_g += said.keys()
        levels += said.values()
    values = np.array(levels, np.float32) / model.network.num_levels
    level_ng = sp.csr_matrix((values, (at_n, at_g)), shape=(len(written), len(vocab.genes)))
    level_ng.eliminate_zeros()
    return GeneratedCells(
        level_ng=level_ng,
        genes=vocab.genes,
        prompt_n=prompt_n,
        is_ended_n=np.array([sentence.is_ended for sentence in written]),
        num_other_n=num_other_n,
    )
