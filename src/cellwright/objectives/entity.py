"""Losses on what follows in a sentence: which entities, and at which levels.

Source: scMulan (Bian et al., RECOMB 2024, Methods; criterion of the repository's history). At a token it is asked for
*all* words behind it, as a set: the order of a cell's genes means nothing. Behind the last word stands the word that
ends the sentence, asked for there alone. The published criterion takes dense ``[n, t, v]`` targets; here the answers
are the sentence itself, so that per cell only ``[asked tokens, v]`` logits are formed, and formed again for the
gradient instead of being kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cellwright.config import Config
from cellwright.types import ModelOutput, Targets, WordScores

READS = frozenset({"entity_nt", "level_nt", "is_asked_nt", "end_n"})


class NextEntity(Config):
    """Binary cross entropy of every vocabulary entry being among the words that follow, scMulan's L1.

    Summed over the vocabulary (as published: times the vocabulary's size), averaged over all asked tokens of the
    minibatch. Words already read are no longer asked for, so not repeating is learnt too. An entity that follows
    twice is asked for once.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"entity"})
    reads: ClassVar[frozenset[str]] = READS - {"level_nt"}

    def __call__(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` when nothing is asked."""
        weight_vd = out.entity.weight_vd
        total, count = weight_vd.new_zeros(()).float(), 0
        for asked in _questions(out, out.entity, targets):
            total = total + checkpoint(_entity_loss, *asked, weight_vd, use_reentrant=False)
            count += len(asked.hidden_sd)
        return total / count


class NextLevel(Config):
    """Squared error of the levels of the words that follow, scMulan's L2; published weight in the loss: 200.

    Averaged over all pairs of an asked token and a word behind it. Words without a level (metadata, the end) have
    level 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"level"})
    reads: ClassVar[frozenset[str]] = READS

    def __call__(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` when nothing is asked."""
        weight_vd = out.level.weight_vd
        total, count = weight_vd.new_zeros(()).float(), torch.zeros((), device=weight_vd.device)
        for asked in _questions(out, out.level, targets):
            with torch.autocast(weight_vd.device.type, enabled=False):
                level_sw = asked.hidden_sd.float() @ weight_vd[asked.entity_w].float().T
            error_sw = (level_sw - asked.level_w).square()
            total = total + error_sw.masked_fill(~asked.is_answer_sw, 0.0).sum()
            count = count + asked.is_answer_sw.sum()
        return total / count


class _Asked(NamedTuple):
    """The questions of one cell (``s``: asked token) and the words of its sentence, the end word last (``w``)."""

    hidden_sd: Tensor
    entity_w: Tensor
    level_w: Tensor
    is_answer_sw: Tensor
    """Whether the word is an answer to the question."""


def _entity_loss(
    hidden_sd: Tensor, entity_w: Tensor, level_w: Tensor, is_answer_sw: Tensor, weight_vd: Tensor
) -> Tensor:
    """Sum over questions and entries of ``softplus(l) - l * is_answer``, in float32."""
    with torch.autocast(hidden_sd.device.type, enabled=False):
        logit_sv = hidden_sd.float() @ weight_vd.float().T
        answer_sw = logit_sv[:, entity_w].masked_fill(~is_answer_sw, 0.0)
        return nn.functional.softplus(logit_sv).sum() - answer_sw.sum()


def _questions(out: ModelOutput, scores: WordScores | None, targets: Targets) -> Iterator[_Asked]:
    """Yield each cell that is asked anything."""
    if scores is None:
        raise ValueError("the model left a field empty that this loss needs; let Objective.check(model) name it")
    if targets.entity_nt is None or targets.is_asked_nt is None or targets.end_n is None:
        raise ValueError("the view gave no values of sentences to answer; use a view such as c_sentence")
    if not targets.is_asked_nt.any():
        raise ValueError("no word of the minibatch is scored; give sentences in which something is asked")
    layout = out.layout
    levels_nt = torch.zeros_like(targets.entity_nt) if targets.level_nt is None else targets.level_nt
    parts = (scores.hidden_ntd, targets.entity_nt, levels_nt, targets.is_asked_nt)
    cells = zip(*(layout.pack(part)[0].split(layout.lengths) for part in parts), targets.end_n, strict=True)
    for hidden_td, entity_t, level_t, is_asked_t, end in cells:
        asked_s = is_asked_t.nonzero()[:, 0]
        if not len(asked_s):
            continue
        entity_w, level_w = torch.cat([entity_t, end[None]]), torch.cat([level_t.float(), level_t.new_zeros(1).float()])
        place_w, last = torch.arange(len(entity_w), device=entity_w.device), len(entity_t)
        is_answer_sw = (place_w > asked_s[:, None]) & _is_last_mention(entity_w)
        is_answer_sw[:, last] = asked_s == last - 1
        yield _Asked(hidden_td[asked_s], entity_w, level_w, is_answer_sw)


def _is_last_mention(entity_w: Tensor) -> Tensor:
    """Return False where the same entity comes again later in the sentence (the end word, at the end, not counted)."""
    order_w = torch.argsort(entity_w[:-1], stable=True)
    is_repeated_w = torch.zeros_like(entity_w, dtype=torch.bool)
    is_repeated_w[order_w[:-1]] = entity_w[order_w[1:]] == entity_w[order_w[:-1]]
    return ~is_repeated_w
