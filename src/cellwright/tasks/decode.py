"""Writing sentences word by word with a causal network: batched, with memory of the words already read.

Source: scMulan's published ``generate_cellGenesis`` (one cell at a time, the whole sentence read again for each word).
Each turn: scores of all entities at the last word; words that are not allowed or were said already are barred; one is
chosen; its level is what the level head says of it, rounded half to even. A sentence is over at the end word or at its
longest length. Prompts are read packed, so sentences of unlike lengths travel together without pads, and leave when
they are over; a sentence comes out the same in every minibatch, to rounding. Random numbers are drawn on the CPU in
float32, each sentence from a generator of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from cellwright.config import Config
from cellwright.types import CellEnd, Draw, Layout, TokenBatch, WordScores


class DecodeConfig(Config):
    """How words are chosen; the defaults draw from the network's own probabilities."""

    max_new: int | None = Field(None, ge=1)
    """Most words written a sentence, the end word counted."""
    max_total: int | None = Field(None, ge=1)
    """Most words of a sentence, the prompt counted (published max_new_tokens); at least one is always written."""
    barred: Literal["said", "said_before_last"] = "said"
    """Words that may not come (again): all said so far (published cached class), or all but those said last, so that
    a word can come twice in a row (published plain class, which made the published annotations)."""
    top_k: int | None = Field(None, ge=1)
    """Choose among the so many highest scores (ties included); 1 = always the highest."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Choose among the likeliest words that together reach this probability."""
    temperature: float = Field(1.0, gt=0)
    """Divides the scores: below 1 the likely becomes likelier."""
    gamma: float = Field(1.0, ge=0)
    """Factor on the probability of the end word when drawing; below 1 sentences grow longer (published 0.1)."""
    is_end_read: bool = True
    """Whether a sentence's last word is read although only the end may follow. False spares that pass: neither its
    hidden state nor the scores of the end are kept then, and the end gets level 0."""

    @model_validator(mode="after")
    def _check(self) -> DecodeConfig:
        if self.max_new is None and self.max_total is None:
            raise ValueError("give max_new or max_total; a sentence needs a longest length")
        return self

    def longest(self, length: int) -> int:
        """Return the greatest length that a sentence with a prompt of this length can reach."""
        ends = [length + self.max_new] if self.max_new is not None else []
        ends += [self.max_total] if self.max_total is not None else []
        return max(min(ends), length + 1)


@dataclass(slots=True, kw_only=True)
class Written:
    """One sentence."""

    entity_t: list[int]
    """Vocabulary ids, the prompt first; the end word last where it was said."""
    level_t: list[int]
    prompt_length: int
    is_ended: bool = False
    """Whether the end word was said (or no other word was left)."""
    hidden: list[Tensor] = field(default_factory=list)
    """Hidden states ``[d]`` of the words read, from the prompt's last but one on; float32 on the CPU, when asked."""
    scores: list[Tensor] = field(default_factory=list)
    """Scores ``[v]`` that each written word was chosen from, -inf = barred; when asked."""

    def hidden_at(self, place: int) -> Tensor:
        """Return the hidden state of the word at this place of the sentence."""
        return self.hidden[place - max(self.prompt_length - 2, 0)]


@torch.inference_mode()
def decode(
    network: Any,
    prompts: TokenBatch,
    config: DecodeConfig,
    *,
    end: int,
    allowed_sv: Tensor | None = None,
    generators: Sequence[torch.Generator] | None = None,
    is_recorded: bool = False,
) -> list[Written]:
    """Write on from prompts.

    Parameters
    ----------
    network
        A causal network with ``new_cache``, ``num_levels`` and the outputs ``entity`` and ``level``, in evaluation
        mode on the device of the prompts.
    prompts
        Sentences to continue, at least one word each; padded or packed.
    config
        How words are chosen.
    end
        Vocabulary id of the end word.
    allowed_sv
        bool ``[v]``, or ``[s, v]``: which words may be written, in each of the first turns (the last row counts from
        then on). A sentence for which no word is left says the end word. ``None`` = any.
    generators
        One CPU generator a sentence to draw from. ``None`` = always the highest score.
    is_recorded
        Keep hidden states and scores.

    Returns
    -------
    One `Written` a prompt, in order.
    """
    if generators is not None and len(generators) != prompts.layout.num_cells:
        raise ValueError(f"{len(generators)} generators for {prompts.layout.num_cells} sentences: one each is needed")
    tokens = prompts.packed()
    sentences = _begin(tokens)
    longest_n = [config.longest(sentence.prompt_length) for sentence in sentences]
    cache = network.new_cache(max(longest_n))
    turn = _Turn(sentences, config, end, _as_steps(allowed_sv), generators, is_recorded)
    only = CellEnd("last", 2 if is_recorded else 1)
    is_barred_nv: Tensor | None = None
    step = 0
    while True:
        if not config.is_end_read and turn.is_end_certain(step):
            turn.append([end] * len(turn.row_n), [0] * len(turn.row_n), longest_n)
            return sentences
        out = network(tokens, ("entity", "level"), cache=cache, only=only)
        if is_recorded:
            _record_hidden(out.hidden_ntd, out.layout, [sentences[row] for row in turn.row_n])
        last_nd = out.layout.last(out.hidden_ntd).float()
        with torch.autocast(last_nd.device.type, enabled=False):  # near ties must not be decided by rounding
            score_nv = WordScores(last_nd, out.entity.weight_vd.float()).dense()
        if is_barred_nv is None:
            is_barred_nv = _said(sentences, score_nv, is_last_spared=config.barred == "said_before_last")
        word_n = turn.choose(score_nv.masked_fill_(is_barred_nv, -torch.inf), step)
        level_n = (last_nd * out.level.weight_vd[word_n].float()).sum(-1).round().clamp(0, network.num_levels)
        previous_n = torch.tensor([sentences[row].entity_t[-1] for row in turn.row_n], device=word_n.device)
        is_barred_nv.scatter_(1, (word_n if config.barred == "said" else previous_n)[:, None], True)
        staying = turn.append(word_n.tolist(), level_n.long().tolist(), longest_n)
        if not len(staying):
            return sentences
        if len(staying) < len(word_n):
            at_n = staying.to(word_n.device)
            cache.take(at_n)
            word_n, level_n, is_barred_nv = word_n[at_n], level_n[at_n], is_barred_nv[at_n]
        tokens = _one_word(word_n, level_n)
        step += 1


def _begin(prompts: TokenBatch) -> list[Written]:
    parts = (x_nt[0].cpu().split(prompts.layout.lengths) for x_nt in (prompts.gene_nt, prompts.value_nt))
    return [
        Written(entity_t=entity_t.tolist(), level_t=level_t.long().tolist(), prompt_length=len(entity_t))
        for entity_t, level_t in zip(*parts, strict=True)
    ]


def _as_steps(allowed_sv: Tensor | None) -> Tensor | None:
    return allowed_sv if allowed_sv is None or allowed_sv.ndim == 2 else allowed_sv[None]


def _said(sentences: list[Written], like_nv: Tensor, *, is_last_spared: bool) -> Tensor:
    """Return bool ``[n, v]``: the words of each prompt."""
    is_said_nv = torch.zeros_like(like_nv, dtype=torch.bool)
    for row, sentence in enumerate(sentences):
        is_said_nv[row, sentence.entity_t[:-1] if is_last_spared else sentence.entity_t] = True
    return is_said_nv


def _one_word(word_n: Tensor, level_n: Tensor) -> TokenBatch:
    return TokenBatch(
        gene_nt=word_n[:, None],
        value_nt=level_n[:, None],
        is_hidden_nt=torch.zeros_like(word_n[:, None], dtype=torch.bool),
        layout=Layout((1,) * len(word_n), 1),
    )


def _record_hidden(hidden_ntd: Tensor, layout: Layout, sentences: list[Written]) -> None:
    parts = layout.pack(hidden_ntd)[0].float().cpu().split(layout.lengths)
    for sentence, hidden_td in zip(sentences, parts, strict=True):
        sentence.hidden.extend(hidden_td)


class _Turn:
    """Chooses words and writes them down; keeps count of the sentences that go on."""

    def __init__(
        self,
        sentences: list[Written],
        config: DecodeConfig,
        end: int,
        allowed_sv: Tensor | None,
        generators: Sequence[torch.Generator] | None,
        is_recorded: bool,
    ):
        self.sentences, self.config, self.end = sentences, config, end
        self.allowed_sv, self.generators, self.is_recorded = allowed_sv, generators, is_recorded
        self.row_n = list(range(len(sentences)))
        """Sentence of each row of the minibatch."""

    def is_end_certain(self, step: int) -> bool:
        """Whether nothing but the end may be said in this turn, whatever the scores."""
        if self.allowed_sv is None:
            return False
        allowed_v = self.allowed_sv[min(step, len(self.allowed_sv) - 1)]
        return bool(allowed_v[self.end]) and int(allowed_v.sum()) == 1

    def choose(self, score_nv: Tensor, step: int) -> Tensor:
        """Return a word for each row; ``score_nv`` (-inf = barred) is changed."""
        if self.allowed_sv is not None:
            allowed_v = self.allowed_sv[min(step, len(self.allowed_sv) - 1)].to(score_nv.device)
            score_nv.masked_fill_(~allowed_v, -torch.inf)
        is_lost_n = ~torch.isfinite(score_nv).any(1)
        score_nv[is_lost_n, self.end] = 0.0
        score_nv /= self.config.temperature
        if self.config.top_k is not None:
            least_n1 = torch.topk(score_nv, min(self.config.top_k, score_nv.shape[1])).values[:, -1:]
            score_nv.masked_fill_(score_nv < least_n1, -torch.inf)
        if self.config.top_p is not None:
            _keep_nucleus(score_nv, self.config.top_p)
        if self.is_recorded:
            for row, score_v in zip(self.row_n, score_nv.cpu(), strict=True):
                self.sentences[row].scores.append(score_v)
        if self.generators is None:
            return score_nv.argmax(1)
        return self._draw(score_nv)

    def _draw(self, score_nv: Tensor) -> Tensor:
        weight_nv = score_nv.cpu().softmax(-1)
        weight_nv[:, self.end] *= self.config.gamma
        words = []
        for row, weight_v in zip(self.row_n, weight_nv, strict=True):
            if not weight_v.any():  # gamma 0 and nothing but the end word is left
                words.append(torch.tensor([self.end]))
                continue
            words.append(torch.multinomial(weight_v[None], 1, generator=self.generators[row])[0])
        return torch.cat(words).to(score_nv.device)

    def append(self, words: list[int], levels: list[int], longest_n: list[int]) -> Tensor:
        """Write the words down and return the places of the rows that go on, int64: those behind fill the gaps."""
        staying = []
        for at, (row, word, level) in enumerate(zip(self.row_n, words, levels, strict=True)):
            sentence = self.sentences[row]
            sentence.entity_t.append(word)
            sentence.level_t.append(level)
            sentence.is_ended = word == self.end
            if not sentence.is_ended and len(sentence.entity_t) < longest_n[row]:
                staying.append(at)
        kept, late = set(staying), [at for at in reversed(staying) if at >= len(staying)]
        staying = [at if at in kept else late.pop() for at in range(len(staying))]
        self.row_n = [self.row_n[at] for at in staying]
        return torch.tensor(staying, dtype=torch.long)


def _keep_nucleus(score_nv: Tensor, top_p: float) -> None:
    """Bar the words outside the smallest set of likeliest ones that reaches ``top_p``; the likeliest always stays."""
    order = score_nv.sort(descending=True, stable=True)
    weight_nv = order.values.softmax(-1)
    is_outside_nv = weight_nv.cumsum(-1) - weight_nv >= top_p
    score_nv.masked_fill_(is_outside_nv.scatter(1, order.indices, is_outside_nv), -torch.inf)


def cell_generators(seed: int, num: int) -> list[torch.Generator]:
    """Return one generator a sentence; the i-th depends on (seed, i) alone."""
    return [Draw(seed, 0, i).generator() for i in range(num)]


def allowed_words(num_entries: int, *ids: np.ndarray) -> Tensor:
    """Return bool ``[v]``, True at these vocabulary ids."""
    allowed_v = torch.zeros(num_entries, dtype=torch.bool)
    for some in ids:
        allowed_v[torch.from_numpy(np.asarray(some, np.int64))] = True
    return allowed_v
