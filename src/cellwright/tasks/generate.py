"""Cells made by sentences: what a cell of some kind looks like, gene by gene.

Source: scMulan (Bian et al., RECOMB 2024); the notebooks of the extended paper. It needs a family that writes sentences
and was trained to write genes. What is made are levels relative to the cell's own highest one, not counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from tqdm import tqdm

from cellwright.config import Config, did_you_mean, some_of
from cellwright.tasks.decode import DecodeConfig, Written, allowed_words, cell_generators, decode
from cellwright.tasks.inference import MAX_TOKENS, MachineOptions, choose_device, in_precision, in_use
from cellwright.tasks.tell import check_writes
from cellwright.types import Layout, TokenBatch


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
    options: MachineOptions | None = None,
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
        Device, precision, minibatch size, progress bar.

    Raises
    ------
    ValueError
        When the family writes no sentences, a word is not of its category, a gene is not in the vocabulary, or a
        level is out of range.
    """
    config, options = config or GenerateConfig(), options or MachineOptions()
    check_writes(model)
    vocab, end = model.vocab, model.vocab.special_id("end")
    if max_genes is not None and max_genes < 1:
        raise ValueError(f"max_genes = {max_genes}; a cell has at least 1")
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
    # what is read grows with the cells: none may need more than this together, should all become as long as they can
    size = max(
        1, min(options.batch_size, (options.max_tokens or MAX_TOKENS) // how.longest(max(len(e) for e, _ in starts)))
    )
    written: list[Written] = []
    with in_use([model.network], choose_device(options.device)):
        device = next(model.network.parameters()).device
        with tqdm(total=len(prompt_n), desc="generate", unit="cell", disable=not options.progress, leave=False) as bar:
            for first in range(0, len(prompt_n), size):
                some = range(first, min(first + size, len(prompt_n)))
                tokens = _lay_out([starts[prompt_n[i]] for i in some], end).to(device)
                own = [generators[i] for i in some]
                with in_precision(options, device):
                    written += decode(model.network, tokens, how, end=end, allowed_sv=allowed_v, generators=own)
                bar.update(len(some))
    return _read_cells(written, prompt_n, prompts, model)


def _start(prompt: CellPrompt, config: GenerateConfig, model: Any) -> tuple[list[int], list[int]]:
    """Return entities and levels of a prompt: words, the asking word, given genes."""
    vocab, top = model.vocab, model.network.num_levels
    entities = []
    for name, word in prompt.words.items():
        known = vocab.categories.get(name, ())
        if not known:
            near = did_you_mean(name, vocab.categories) or f"; it knows words of {some_of(list(vocab.categories))}"
            raise ValueError(f"the model knows no category {name!r}{near}")
        if word not in known:
            near = did_you_mean(word, known) or f"; it knows {some_of(known)}"
            raise ValueError(f"{word!r} is no {name} that the model knows{near}")
        entities.append(vocab.id(word))
    entities.append(vocab.special_id(config.word))
    genes = set(vocab.genes) if prompt.levels else set()
    for gene, level in prompt.levels.items():
        if gene not in genes:
            raise ValueError(f"gene {gene!r} is not in the model's vocabulary{did_you_mean(gene, genes)}")
        if not 0 <= level <= top:
            raise ValueError(f"{gene} is given level {level}; levels are 0 .. {top}")
    levels = [0] * len(entities) + list(prompt.levels.values())
    return entities + [vocab.id(gene) for gene in prompt.levels], levels


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
