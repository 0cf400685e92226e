"""Losses on what follows in a sentence: which entities, and at which levels.

Source: scMulan (Bian et al., RECOMB 2024, Methods; criterion of the repository's history). At a token it is asked for
*all* words behind it, as a set: the order of a cell's genes means nothing. Behind the last word stands the word that
ends the sentence, asked for there alone. The published criterion takes dense ``[n, t, v]`` targets; here the answers
are the sentence itself: logits are formed for asked tokens only, some cells at a time, and formed again for the
gradient instead of being kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from cellwright.config import Config
from cellwright.layout import taken_rows
from cellwright.types import ModelOutput, Targets, WordScores

READS = frozenset({"entity_nt", "level_nt", "is_asked_nt", "end_n"})

_MOST_SCORES = 2**22  # formed at once: 16 MB in float32

Per = Literal["word", "sentence"]


class NextEntity(Config):
    """Binary cross entropy of every vocabulary entry being among the words that follow, scMulan's L1.

    Summed over the vocabulary (as published: times the vocabulary's size), averaged over what is asked in the
    minibatch. Words already read are no longer asked for, so not repeating is learnt too. An entity that follows
    twice is asked for once.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"entity"})
    reads: ClassVar[frozenset[str]] = READS - {"level_nt"}

    per: Per = "word"
    """What weighs the same: every asked token (published), or every sentence, whose tokens share its weight. A sentence
    of genes asks hundreds of times, one of metadata two or three times: see decision 0011."""

    def __call__(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` when nothing is asked."""
        groups = _groups(out, out.entity, targets)
        weight_vd = out.entity.weight_vd
        total, whole = weight_vd.new_zeros(()).float(), torch.zeros((), device=weight_vd.device)
        for asked in groups:
            share_ns = _shares(asked.is_asked_ns, self.per)
            total = total + checkpoint(_entity_loss, *asked, share_ns, weight_vd, use_reentrant=False)
            whole = whole + share_ns.sum()
        return total / whole


class NextLevel(Config):
    """Squared error of the levels of the words that follow, scMulan's L2; published weight in the loss: 200.

    Averaged over the pairs of an asked token and a word behind it. Words without a level (metadata, the end) have
    level 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"level"})
    reads: ClassVar[frozenset[str]] = READS

    per: Per = "word"
    """What weighs the same: every pair (published), or every sentence, whose pairs share its weight."""

    def __call__(self, out: ModelOutput, targets: Targets) -> Tensor:
        """Return the scalar loss; ``ValueError`` when nothing is asked."""
        groups = _groups(out, out.level, targets)
        weight_vd = out.level.weight_vd
        total, whole = weight_vd.new_zeros(()).float(), torch.zeros((), device=weight_vd.device)
        for asked in groups:
            with torch.autocast(weight_vd.device.type, enabled=False):
                weight_nwd = taken_rows(weight_vd, asked.entity_nw).float()
                level_nsw = asked.hidden_nsd.float() @ weight_nwd.transpose(1, 2)
            share_nsw = _shares(asked.is_answer_nsw, self.per)
            error_nsw = (level_nsw - asked.level_nw[:, None]).square()
            total = total + (error_nsw.masked_fill(~asked.is_answer_nsw, 0.0) * share_nsw).sum()
            whole = whole + share_nsw.sum()
        return total / whole


def _shares(is_counted: Tensor, per: Per) -> Tensor:
    """Return the weight of each question ``[n, ...]``, 0 where nothing is asked: 1, or what is left of the cell's 1."""
    share = is_counted.float()
    if per == "word":
        return share
    return share / share.flatten(1).sum(1).view(-1, *[1] * (share.ndim - 1))


class _Asked(NamedTuple):
    """The questions of some cells (``s``: asked token) and the words of their sentences, the end word last (``w``)."""

    hidden_nsd: Tensor
    is_asked_ns: Tensor
    """False where a cell has fewer questions than the others."""
    entity_nw: Tensor
    level_nw: Tensor
    is_answer_nsw: Tensor
    """Whether the word is an answer to the question."""


def _entity_loss(
    hidden_nsd: Tensor,
    is_asked_ns: Tensor,
    entity_nw: Tensor,
    level_nw: Tensor,
    is_answer_nsw: Tensor,
    share_ns: Tensor,
    weight_vd: Tensor,
) -> Tensor:
    """Sum over questions, by their weights, and entries of ``softplus(l) - l * is_answer``, in float32."""
    with torch.autocast(hidden_nsd.device.type, enabled=False):
        logit_nsv = hidden_nsd.float() @ weight_vd.float().T
        all_ns = nn.functional.softplus(logit_nsv).sum(-1)
        at_nsw = entity_nw[:, None].expand(is_answer_nsw.shape)
        answers_ns = logit_nsv.gather(2, at_nsw).masked_fill(~is_answer_nsw, 0.0).sum(-1)
        return ((all_ns - answers_ns).masked_fill(~is_asked_ns, 0.0) * share_ns).sum()


def _groups(out: ModelOutput, scores: WordScores | None, targets: Targets) -> Iterator[_Asked]:
    """Check what is asked, and return cells in groups of like numbers of questions."""
    if scores is None:
        raise ValueError("the model left a field empty that this loss needs; let Objective.check(model) name it")
    if targets.entity_nt is None or targets.is_asked_nt is None or targets.end_n is None:
        raise ValueError("the view gave no values of sentences to answer; use a view such as c_sentence")
    if not targets.is_asked_nt.any():
        raise ValueError("no word of the minibatch is scored; give sentences in which something is asked")
    layout = out.layout
    level_nt = torch.zeros_like(targets.entity_nt) if targets.level_nt is None else targets.level_nt
    parts = (scores.hidden_ntd, targets.entity_nt, level_nt.float(), targets.is_asked_nt)
    cells = list(zip(*(layout.pack(part)[0].split(layout.lengths) for part in parts), targets.end_n, strict=True))
    num_asked = [int(num) for num in torch.stack([cell[3].sum() for cell in cells]).tolist()]
    order = sorted((at for at, num in enumerate(num_asked) if num), key=lambda at: (num_asked[at], layout.lengths[at]))
    return _gather(cells, order, num_asked, len(scores.weight_vd))


def _gather(
    cells: list[tuple[Tensor, ...]], order: list[int], num_asked: list[int], num_entries: int
) -> Iterator[_Asked]:
    """Yield groups of cells, in this order, within the limit on scores formed at once."""
    start = 0
    while start < len(order):
        stop, longest = start + 1, len(cells[order[start]][1])
        while stop < len(order):
            longest = max(longest, len(cells[order[stop]][1]))
            if (stop + 1 - start) * num_asked[order[stop]] * max(num_entries, longest) > _MOST_SCORES:
                break
            stop += 1
        yield _pad([cells[at] for at in order[start:stop]])
        start = stop


def _pad(cells: list[tuple[Tensor, ...]]) -> _Asked:
    """Lay cells out side by side; what stands at pads is neither asked nor an answer."""
    hidden, entity, level, is_asked, end = zip(*cells, strict=True)
    device = entity[0].device
    place = [part.nonzero()[:, 0] for part in is_asked]
    place_ns = pad_sequence(place, batch_first=True, padding_value=-1)
    entity_nw = pad_sequence([torch.cat([e, z[None]]) for e, z in zip(entity, end, strict=True)], batch_first=True)
    level_nw = nn.functional.pad(pad_sequence(level, batch_first=True), (0, 1))
    length_n1 = torch.tensor([[len(part)] for part in entity], device=device)
    at_w = torch.arange(entity_nw.shape[1], device=device)
    is_word_nw = (at_w < length_n1) & _is_last_mention(entity_nw, length_n1)
    is_answer_nsw = is_word_nw[:, None] & (at_w > place_ns[..., None])
    is_answer_nsw |= (at_w == length_n1)[:, None] & (place_ns == length_n1 - 1)[..., None]
    is_asked_ns = place_ns >= 0
    return _Asked(
        hidden_nsd=pad_sequence([h[p] for h, p in zip(hidden, place, strict=True)], batch_first=True),
        is_asked_ns=is_asked_ns,
        entity_nw=entity_nw,
        level_nw=level_nw,
        is_answer_nsw=is_answer_nsw & is_asked_ns[..., None],
    )


def _is_last_mention(entity_nw: Tensor, length_n1: Tensor) -> Tensor:
    """Return False where the same entity comes again later in the sentence (its end word not counted)."""
    is_word_nw = torch.arange(entity_nw.shape[1], device=entity_nw.device) < length_n1
    sorted_nw, order_nw = torch.where(is_word_nw, entity_nw, -1).sort(stable=True)
    is_repeated_nw = torch.zeros_like(is_word_nw)
    return ~is_repeated_nw.scatter(1, order_nw[:, :-1], sorted_nw[:, 1:] == sorted_nw[:, :-1])
